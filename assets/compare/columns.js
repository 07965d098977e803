// The columns of a comparison and what differed where they part. Texts enter through textContent only.
const SVG = "http://www.w3.org/2000/svg";
let view = null, point = 0, pair = null, lastRun = "";

const size = (n) => (n >= 1e9 ? `${(n / 1e9).toPrecision(3)}B` : n >= 1e6 ? `${(n / 1e6).toPrecision(3)}M` : String(n));
const rate = (x) => (x >= 100 ? x.toFixed(0) : x.toPrecision(2).replace(/e\+?(\d+)/, (_, e) => "0".repeat(e)));
const ENDS = { stop: "", length: "ended at max new tokens", time: "ended at the time limit", stopped: "stopped" };

function drawColumns() {
  const place = $(".cmp-columns");
  while (place.children.length > view.columns.length) place.lastChild.remove();
  view.columns.forEach((column, i) => {
    let card = place.children[i];
    if (!card) {
      card = make("article", "cmp-column");
      card.append(make("h3"), make("p", "cmp-text"), make("dl"), make("p", "cmp-note"));
      place.append(card);
    }
    const [title, text, figures, note] = card.children;
    title.textContent = column.name;
    const at = column.mark;
    text.replaceChildren();
    if (at === null) text.textContent = column.texts.join("");
    else {
      const ended = at >= column.texts.length;
      const mark = make("mark", ended ? "cmp-end" : "", ended ? "end of reply" : shown(column.texts[at]));
      mark.title = `token ${at + 1}: the first that differs`;
      text.append(column.texts.slice(0, at).join(""), mark, column.texts.slice(at + 1).join(""));
    }
    if (!column.texts.length) text.append(make("span", "cmp-note", column.ended === "running" ? "…" : "No text."));
    const rows = [
      ["time", `${column.seconds.toFixed(1)} s`, "from the start of the comparison to the last token"],
      ["tok/s together", column.rate ? rate(column.rate) : "–", "as rows of one batch, which takes the pace of the largest k"],
      ["tok/s alone", column.alone ? rate(column.alone) : "–", "decode steps of this k by itself, measured after the replies"],
      ["active parameters", size(column.active), "parameters that take part in one token"],
      ["routing mass", column.mass === null ? "–" : column.mass.toFixed(2), "share of the routers' probability that the chosen experts hold, mean over tokens and layers"],
    ];
    figures.replaceChildren(...rows.map(([name, value, help]) => {
      const row = make("div");
      row.title = help;
      row.append(make("dt", "", name), make("dd", "", value));
      return row;
    }));
    note.textContent = [`${column.texts.length} tokens`, ENDS[column.ended] ?? "", ...column.notices].filter(Boolean).join(" · ");
  });
}

const shown = (text) => (text === "" ? "…" : text.replace(/\n/g, "⏎\n").replace(/^ $/, "␣"));
const quoted = (text) => (text.trim() === "" ? JSON.stringify(text) : `“${text}”`);
const nameOf = (reply) => view.columns[reply].name;

function drawWhy() {
  const section = $(".cmp-why");
  section.hidden = !view.differences.length;
  if (section.hidden) return;
  point = Math.min(point, view.differences.length - 1);
  const points = $(".cmp-points");
  points.hidden = view.differences.length < 2;
  points.replaceChildren(...view.differences.map((d, i) => {
    const button = make("button", "", `token ${d.position + 1}: ${d.replies.map(nameOf).join(", ")}`);
    button.type = "button";
    button.setAttribute("aria-pressed", String(i === point));
    button.addEventListener("click", () => { point = i; pair = null; drawWhy(); $(".cmp-points").children[i].focus(); });
    return button;
  }));
  const d = view.differences[point];
  $(".cmp-point").textContent = d.before === null ? "The very first token differs." :
    `The first ${d.position} token${d.position === 1 ? "" : "s"} are the same; the last of them is ${quoted(d.before)}.`;
  const head = make("tr");
  head.append(make("th", "", "next token"), ...d.replies.map((r) => make("th", "", nameOf(r))));
  $(".cmp-table").replaceChildren(head, ...d.texts.map((text, i) => {
    const row = make("tr");
    row.append(make("th", "cmp-token", d.ends[i] ? "end of reply" : quoted(text)));
    row.firstChild.scope = "row";
    d.replies.forEach((r, n) => {
      const p = d.probs[n][i], taken = d.taken[n] === i;
      const cell = make("td", taken ? "cmp-taken" : "", `${taken ? "● " : ""}${p < 0.0005 ? "<0.1" : (100 * p).toFixed(1)} %`);
      cell.style.setProperty("--share", `${100 * p}%`);
      row.append(cell);
    });
    return row;
  }));
  drawPair(d);
}

function drawPair(d) {
  if (!pair) {
    const other = d.replies.findIndex((_, n) => d.taken[n] !== d.taken[0]);
    pair = [0, other < 0 ? 1 : other];
  }
  [".cmp-a", ".cmp-b"].forEach((name, side) => {
    const select = $(name);
    select.replaceChildren(...d.replies.map((r, n) => new Option(nameOf(r), n, false, n === pair[side])));
    select.onchange = () => { pair[side] = Number(select.value); drawPair(d); };
  });
  const [a, b] = pair.map((n) => d.experts[n]);
  const [nameA, nameB] = pair.map((n) => nameOf(d.replies[n]));
  const cell = 10, gap = 2, left = 22, layers = a.length, experts = view.num_experts;
  const map = $(".cmp-map");
  map.setAttribute("viewBox", `0 0 ${left + experts * cell} ${layers * cell}`);
  const count = { both: 0, a: 0, b: 0 };
  const nodes = [];
  for (let layer = 0; layer < layers; layer++) {
    if (layer % 4 === 0) {
      const label = document.createElementNS(SVG, "text");
      label.setAttribute("x", left - 5);
      label.setAttribute("y", layer * cell + 8);
      label.textContent = layer;
      nodes.push(label);
    }
    for (let expert = 0; expert < experts; expert++) {
      const inA = a[layer].includes(expert), inB = b[layer].includes(expert);
      const kind = inA && inB ? "both" : inA ? "a" : inB ? "b" : "";
      if (kind) count[kind]++;
      const box = document.createElementNS(SVG, "rect");
      box.setAttribute("x", left + expert * cell);
      box.setAttribute("y", layer * cell);
      box.setAttribute("width", cell - gap);
      box.setAttribute("height", cell - gap);
      box.setAttribute("class", kind);
      const title = document.createElementNS(SVG, "title");
      title.textContent = `layer ${layer}, expert ${expert}: ${{ both: "both", a: `only ${nameA}`, b: `only ${nameB}` }[kind] || "neither"}`;
      box.append(title);
      nodes.push(box);
    }
  }
  map.replaceChildren(...nodes);
  const say = pair[0] === pair[1] ? "Choose two different settings." :
    `On ${d.before === null ? "the prompt's last token" : `the token ${quoted(d.before)}`}, over ${layers} layers: ${count.both} used by both, ` +
    `${count.a} only by ${nameA}, ${count.b} only by ${nameB}.`;
  $(".cmp-summary").textContent = say;
  map.setAttribute("aria-label", say);
  const names = element.querySelectorAll(".cmp-legend b");
  names[0].textContent = `only ${nameA}`;
  names[1].textContent = `only ${nameB}`;
}

function draw() {
  view = props.value ? JSON.parse(props.value) : null;
  $(".cmp").hidden = !view;
  if (!view) return;
  const run = view.seed + view.columns.map((c) => c.name).join();
  if (run !== lastRun || !view.differences.length) { point = 0; pair = null; lastRun = run; }
  const same = !view.doing && view.columns.length > 1 && view.columns.every((c) => c.mark === null && c.texts.length);
  $(".cmp-doing").textContent = view.doing ? `${view.doing} …` :
    `${view.stopped ? "Stopped. " : ""}${same ? "No token differs between these replies. " : ""}Seed ${view.seed}.`;
  drawColumns();
  drawWhy();
}
draw();
watch("value", draw);
