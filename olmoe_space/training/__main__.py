"""`python -m olmoe_space.training`: tokenizer, train, export, average, evaluate, card; each step writes files."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import average, export, mixture, tokenizer, train
from .model import SIZES
from .schedule import Schedule

MODEL_FOLDER = Path("assets/olmoe-tiny")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m olmoe_space.training", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)

    def command(name: str, text: str, corpus: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--model", type=Path, default=MODEL_FOLDER, help="the hub folder (%(default)s)")
        if corpus:
            sub.add_argument("--corpus", type=Path, required=True, help="the corpus folder, see corpus.py")
        sub.add_argument("--seed", type=int, default=0)
        return sub

    sub = command("tokenizer", "learn the tokenizer and write it to the hub folder")
    sub.add_argument("--megabytes", type=float, default=30, help="of text to learn from (%(default)s)")

    sub = command("train", "train, or go on from the checkpoint in --out")
    sub.add_argument("--out", type=Path, required=True, help="checkpoints, log and weights go here")
    sub.add_argument("--size", choices=SIZES, default="tiny")
    length = sub.add_mutually_exclusive_group(required=True)
    length.add_argument("--steps", type=int)
    length.add_argument("--minutes", type=float, help="of training; the schedule ends exactly then")
    sub.add_argument("--optimizer", choices=("muon", "adamw", "compare"), default="muon")
    sub.add_argument("--initial", type=Path, help="a folder of shards to start from, with a fresh optimizer")
    sub.add_argument("--compare-seconds", type=float, default=30)
    sub.add_argument("--lr", type=float, default=3e-3)
    sub.add_argument("--warmup-steps", type=int, default=200)
    sub.add_argument("--decay-share", type=float, default=0.4)
    sub.add_argument("--tokens-per-step", type=int, default=49_152)
    sub.add_argument("--segments", type=int, default=2048, help="at most, in one batch")
    sub.add_argument("--stdlib", type=Path, help="Python sources to read; by default the standard library")
    sub.add_argument("--limit", type=int, help="documents of each source, for a rehearsal")
    sub.add_argument("--workers", type=int, default=0, help="processes that make batches")
    sub.add_argument("--processes", type=int, default=1, help="processes that tokenise the corpus")
    sub.add_argument("--log-every", type=int, default=50, help="steps")
    sub.add_argument("--checkpoint-seconds", type=float, default=120)
    sub.add_argument("--compile", action="store_true")

    sub = command("export", "put a run's newest weights and the configuration into the hub folder", corpus=False)
    sub.add_argument("--run", type=Path, required=True, help="the --out of train")
    sub.add_argument("--size", choices=SIZES, default="tiny")

    sub = command("average", "put the weighted mean of runs' weights into the hub folder", corpus=False)
    sub.add_argument("--of", nargs=2, action="append", required=True, metavar=("FOLDER", "SHARE"),
                     help="a stage's folder of shards and its share; once a stage, in their order")
    sub.add_argument("--run", type=Path, required=True, help="average.json, for the card, goes here")
    sub.add_argument("--chosen-on", type=int, default=0,
                     help="held-out documents per domain that shares and scale were chosen on")
    sub.add_argument("--logit-scale", type=float, default=1.0, help="times every logit (%(default)s)")
    sub.add_argument("--size", choices=SIZES, default="tiny")

    sub = command("evaluate", "measure the hub folder with stock transformers; writes evaluation.json to --out")
    sub.add_argument("--out", type=Path, required=True)
    sub.add_argument("--code", type=Path, help="Python sources that were not trained on, for expert specialisation")
    sub.add_argument("--k-documents", type=int, default=24, help="per domain, for perplexity by k (%(default)s)")
    sub.add_argument("--documents", type=int, help="per domain, for bits per byte (all)")
    sub.add_argument("--chosen-on", type=int, default=0,
                     help="held-out documents per domain that a setting was chosen on; the rest is told apart")
    sub.add_argument("--elsewhere", type=Path, nargs="*", help="files of text that is in no part of the corpus")
    sub.add_argument("--skip", nargs="*", default=[], choices=("bits", "k", "chat", "experts"))

    sub = command("card", "write the model card from the figures")
    sub.add_argument("--run", type=Path, required=True, help="the --out of train")
    sub.add_argument("--figures", type=Path, required=True, help="the --out of evaluate")
    return top


def main() -> None:
    args = parser().parse_args()
    if args.command == "tokenizer":
        tokenizer.save(tokenizer.train(tokenizer.sample(args.corpus, args.megabytes, args.seed)), args.model)
    elif args.command == "train":
        settings = train.Settings(
            out=args.out, size=args.size, seed=args.seed, tokens_per_step=args.tokens_per_step, segments=args.segments,
            steps=args.steps, minutes=args.minutes, optimizer=args.optimizer, compare_seconds=args.compare_seconds,
            initial=args.initial,
            schedule=Schedule(args.lr, args.warmup_steps, args.decay_share), workers=args.workers,
            log_every=args.log_every, checkpoint_seconds=args.checkpoint_seconds, compiled=args.compile,
        )  # fmt: skip
        mixed = mixture.load(
            args.corpus, tokenizer.load(args.model), args.seed, args.stdlib, args.limit, processes=args.processes
        )
        train.train(settings, mixed)
    elif args.command == "export":
        export.copy_weights(args.run, args.model)
        export.write_config(SIZES[args.size], args.model)
    elif args.command == "average":
        parts = [(Path(folder), float(share)) for folder, share in args.of]
        mean = average.average(parts, args.logit_scale, SIZES[args.size])
        export.write_weights(mean, SIZES[args.size], args.model)
        export.write_config(SIZES[args.size], args.model)
        average.record(args.run, parts, args.logit_scale, args.chosen_on)
    elif args.command == "evaluate":
        from . import evaluate

        evaluate.run(args)
    elif args.command == "card":
        from . import card

        card.write(args.corpus, args.model, args.run, args.figures)


if __name__ == "__main__":
    main()
