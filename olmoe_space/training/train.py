"""The training run: batches in, checkpoints and a log out. It resumes from its own checkpoint, and it is seeded."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .export import read_weights, write_weights
from .mixture import Batch, Feeder, Mixture
from .model import SIZES, Segments, TrainingModel, choose_attention
from .optimizer import Optimizer
from .schedule import Schedule

BALANCE_WEIGHT = 0.01  # arXiv 2409.02060, section 3
ROUTER_SQUARE_WEIGHT = 0.001
CLIP_NORM = 1.0
PROBES = 8  # batches for comparing optimizers: of the training mixture, numbered so that no run reaches them


@dataclass(frozen=True)
class Settings:
    out: Path
    size: str = "tiny"
    seed: int = 0
    tokens_per_step: int = 49_152
    segments: int = 2048  # at most, in one batch
    steps: int | None = None  # the run's length, either in steps ...
    minutes: float | None = None  # ... or in minutes of training
    optimizer: str = "muon"  # muon, adamw, or "compare": both for compare_seconds, then on with the better
    compare_seconds: float = 30.0
    initial: Path | None = None  # shards to start from, with a fresh optimizer
    schedule: Schedule = Schedule()
    workers: int = 0
    log_every: int = 50  # steps
    checkpoint_seconds: float = 120.0
    compiled: bool = False


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Run:
    """A model, its optimizer and how far they have come."""

    def __init__(
        self, settings: Settings, kind: str, device: torch.device, attention: str, initial: dict | None = None
    ):
        torch.manual_seed(settings.seed)
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.settings, self.device, self.kind = settings, device, kind
        self.model = TrainingModel(SIZES[settings.size], dtype, attention).to(device)
        if initial:
            self.model.load_state_dict(initial)
        if settings.compiled:
            self.model.compile_parts()
        self.optimizer = Optimizer(self.model, kind, settings.compiled)
        self.step, self.seconds, self.tokens = 0, 0.0, 0

    def progress(self) -> float:
        if self.settings.steps is not None:
            return self.step / self.settings.steps
        assert self.settings.minutes is not None
        return self.seconds / (60 * self.settings.minutes)

    def tensors(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Segments]:
        """The batch on the device: tokens [T], targets [T], weights [T], segments."""
        arrays = (batch.tokens.astype("int64"), batch.targets.astype("int64"), batch.weights,
                  batch.positions.astype("int64"), batch.starts)  # fmt: skip
        pinned = self.device.type == "cuda"
        moved = []
        for array in arrays:
            tensor = torch.from_numpy(array)
            moved.append((tensor.pin_memory() if pinned else tensor).to(self.device, non_blocking=True))
        return moved[0], moved[1], moved[2], Segments(moved[3], moved[4])

    def advance(self, batch: Batch, lr: float) -> dict[str, Tensor]:
        """One step."""
        tokens, targets, weights, segments = self.tensors(batch)
        losses = self.model.losses(tokens, targets, weights, segments)
        total = losses["text"] + BALANCE_WEIGHT * losses["balance"] + ROUTER_SQUARE_WEIGHT * losses["router_square"]
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.optimizer.step(lr)
        for parameter in self.model.parameters():
            parameter.grad = None
        self.step += 1
        self.tokens += len(batch.tokens)
        return {name: value.detach() for name, value in losses.items()}

    @torch.no_grad()
    def probe(self, mixture: Mixture) -> float:
        """Mean loss in nats a token over the probe batches."""
        total = 0.0
        for number in range(-PROBES, 0):
            batch = mixture.batch(number, "stable", self.settings.tokens_per_step, self.settings.segments)
            tokens, targets, weights, segments = self.tensors(batch)
            total += self.model.losses(tokens, targets, weights, segments)["text"].item()
        return total / PROBES

    def train(self, feeder: Feeder, until: Callable[[Run], bool], log: Callable[[dict[str, Any]], None]) -> None:
        """Steps until `until` says so; the clock counts training alone, and its first three steps (compiling) not."""
        settings = self.settings
        saved = time.monotonic()
        last, first_step = time.monotonic(), self.step
        while not until(self):
            progress = self.progress()
            lr = settings.schedule.lr(self.step, progress)
            stage = settings.schedule.stage(progress)
            losses = self.advance(feeder.get(self.step, stage), lr)
            if self.step % settings.log_every == 0 or self.step - first_step <= 3:
                losses = {name: value.float().cpu() for name, value in losses.items()}  # waits for the device
                if not math.isfinite(losses["text"].item()):
                    raise FloatingPointError(f"step {self.step}: the loss is {losses['text'].item()}")
                log(self.report(losses, lr, stage, time.monotonic() - last))
            now = time.monotonic()
            if self.step - first_step > 3:
                self.seconds += now - last
            last = now
            if now - saved > settings.checkpoint_seconds:
                self.save()
                saved = last = time.monotonic()

    def report(self, losses: dict[str, Tensor], lr: float, stage: str, wait: float) -> dict[str, Any]:
        load = losses["load"]  # [L, E], even = experts_per_token / experts
        share = load / load.sum(1, keepdim=True)
        entropy = -(share * share.clamp_min(1e-9).log()).sum(1) / math.log(load.shape[1])
        return {
            "step": self.step, "stage": stage, "progress": round(self.progress(), 4), "lr": round(lr, 6),
            "loss": round(losses["text"].item(), 4), "balance": round(losses["balance"].item(), 3),
            "router_square": round(losses["router_square"].item(), 2),
            "busiest_expert": round(load.max().item(), 3), "idlest_expert": round(load.min().item(), 4),
            "load_entropy": round(entropy.min().item(), 3), "tokens": self.tokens,
            "tokens_per_s": round(self.tokens / self.seconds) if self.seconds > 1 else None,
        }  # fmt: skip

    def save(self) -> None:
        """checkpoint.pt (everything, to resume) and weights/ (bfloat16 shards, to export), each replaced whole."""
        out = self.settings.out
        weights = {name: value.detach() for name, value in self.model.state_dict().items()}
        state = {
            "model": weights, "optimizer": self.optimizer.state_dict(), "kind": self.kind, "step": self.step,
            "seconds": self.seconds, "tokens": self.tokens, "size": self.settings.size, "seed": self.settings.seed,
        }  # fmt: skip
        torch.save(state, out / "checkpoint.part")
        os.replace(out / "checkpoint.part", out / "checkpoint.pt")
        write_weights({n: w.cpu() for n, w in weights.items()}, SIZES[self.settings.size], out / "weights.part")
        shutil.rmtree(out / "weights", ignore_errors=True)
        os.replace(out / "weights.part", out / "weights")
        say(f"saved step {self.step}, {self.seconds:.0f} s, {self.tokens / 1e6:.1f}M tokens")

    def resume(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.tokens = state["step"], state["seconds"], state["tokens"]


def compare(
    settings: Settings, device: torch.device, attention: str, mixture: Mixture, feeder: Feeder, log: Callable
) -> tuple[Run, dict[str, Any]]:
    """AdamW, then Muon, for the same seconds of training; the run with the lower loss goes on."""
    runs, outcome = [], {}
    for kind in ("adamw", "muon"):
        run = Run(settings, kind, device, attention)
        run.train(feeder, lambda r: r.seconds >= settings.compare_seconds, log)
        outcome[kind] = {"loss": round(run.probe(mixture), 4), "steps": run.step, "seconds": round(run.seconds, 1)}
        say(f"compare: {kind} {outcome[kind]}")
        feeder.waiting.clear()
        runs.append(run)
    best = min(runs, key=lambda run: outcome[run.kind]["loss"])
    return best, {"seconds_each": settings.compare_seconds, **outcome, "taken": best.kind}


def train(settings: Settings, mixture: Mixture) -> dict[str, Any]:
    """The whole run, resumed if `out` holds a checkpoint; returns and writes out/training.json."""
    settings.out.mkdir(parents=True, exist_ok=True)
    feeder = Feeder(mixture, settings.tokens_per_step, settings.segments, settings.workers)  # forks, so before CUDA
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    attention = choose_attention(device)
    say(f"device {device}, attention {attention}, compiled {settings.compiled}, {len(mixture.sources)} sources")

    with (settings.out / "log.jsonl").open("a") as log_file:

        def log(entry: dict[str, Any]) -> None:
            line = json.dumps(entry)
            log_file.write(line + "\n")
            log_file.flush()
            say(line)

        checkpoint, notes = settings.out / "checkpoint.pt", settings.out / "compare.json"
        if checkpoint.exists():
            state = torch.load(checkpoint, map_location=device, weights_only=True)
            run = Run(settings, state["kind"], device, attention)
            run.resume(state)
            say(f"resumed at step {run.step}")
        elif settings.optimizer == "compare":
            run, outcome = compare(settings, device, attention, mixture, feeder, log)
            notes.write_text(json.dumps(outcome))
        else:
            initial = read_weights(settings.initial, SIZES[settings.size]) if settings.initial else None
            run = Run(settings, settings.optimizer, device, attention, initial)
        run.train(feeder, lambda r: r.progress() >= 1, log)
        run.save()
    feeder.close()
    result = {
        "settings": {k: v for k, v in asdict(settings).items() if k not in ("out", "initial")}, "optimizer": run.kind,
        "comparison": json.loads(notes.read_text()) if notes.exists() else None, "steps": run.step,
        "seconds": round(run.seconds, 1), "tokens": run.tokens, "attention": attention,
        "hardware": f"one {torch.cuda.get_device_name()}" if device.type == "cuda" else "CPU",
        "torch": torch.__version__, "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }  # fmt: skip
    (settings.out / "training.json").write_text(json.dumps(result, indent=2) + "\n")
    return result
