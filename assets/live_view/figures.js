// The numbers beside the map, the curves over the reply, and why k is what it is.

const SVG = "http://www.w3.org/2000/svg";

function node(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function createFigures(list) {
  const rows = {};
  const row = (key, label, help) => {
    const box = node("div");
    const term = node("dt", "", label);
    term.title = help;
    const value = node("dd");
    rows[key] = { value: node("b"), of: node("span") };
    value.append(rows[key].value, " ", rows[key].of);
    box.append(term, value);
    list.append(box);
  };
  row("k", "Experts per token", "k: how many experts of each layer work on a token");
  row("active", "Active parameters", "Parameters that take part in one token");
  row("mass", "Routing mass", "The share of the router's probability that the selected experts hold; mean over tokens and layers");
  row("entropy", "Routing entropy", "How evenly the router spreads its probability; the maximum is ln(experts)");
  row("never", "Never used", "Experts that worked on none of these tokens");
  const put = (key, value, of) => {
    if (rows[key].value.textContent !== value) rows[key].value.textContent = value;
    if (rows[key].of.textContent !== of) rows[key].of.textContent = of;
  };
  return {
    // model: what is known before there is a frame.
    draw(frame, shape, shown, model) {
      const { layers, experts } = shape;
      put("k", kText(frame ? frame.mean_k : model.default_k), `of ${experts}`);
      const params = frame || model;
      put("active", large(params.active_params), `of ${large(params.total_params)}`);
      const some = shown.tokens > 0;
      put("mass", some ? decimal(shown.mass / shown.tokens, 2) : "\u2013", some ? "of 1" : "");
      put("entropy", some ? (shown.entropy / shown.tokens).toFixed(2) : "\u2013", some ? `of ${Math.log(experts).toFixed(2)} nats` : "");
      const never = shown.counts.reduce((n, count) => n + (count === 0 ? 1 : 0), 0);
      put("never", some ? grouped(never) : "\u2013", some ? `of ${grouped(layers * experts)}` : "");
    },
  };
}

// k, mass and entropy of each token of the reply, one under the other on the same axis.
function createSparks(box, onChoose) {
  const make = (key, label, format) => {
    const figure = node("figure");
    const caption = node("figcaption", "", label);
    const range = node("span");
    caption.append(range);
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", "0 0 100 24");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    const line = document.createElementNS(SVG, "polyline");
    const mark = document.createElementNS(SVG, "line");
    mark.setAttribute("y1", "0");
    mark.setAttribute("y2", "24");
    mark.setAttribute("class", "lv-mark");
    svg.append(mark, line);
    figure.append(caption, svg);
    box.append(figure);
    const spark = { key, label, format, svg, line, mark, range, length: 0 };
    svg.addEventListener("click", (event) => {
      const area = svg.getBoundingClientRect();
      if (spark.length) onChoose(Math.min(spark.length - 1, Math.floor(((event.clientX - area.left) / area.width) * spark.length)));
    });
    return spark;
  };
  const sparks = [
    make("k", "k per token", kText),
    make("mass", "mass", (x) => decimal(x, 2)),
    make("entropy", "entropy (nats)", (x) => x.toFixed(2)),
  ];
  return {
    draw(tokens, chosen) {
      box.hidden = tokens.length < 2;
      if (box.hidden) return;
      for (const spark of sparks) {
        let low = Infinity, high = -Infinity;
        for (const token of tokens) {
          if (!token) continue;
          low = Math.min(low, token[spark.key]);
          high = Math.max(high, token[spark.key]);
        }
        const span = high - low || 1;
        const points = [];
        for (let i = 0; i < tokens.length; i++) {
          if (!tokens[i]) continue;
          const y = high === low ? 12 : 22 - (20 * (tokens[i][spark.key] - low)) / span;
          points.push(`${((100 * (i + 0.5)) / tokens.length).toFixed(2)},${y.toFixed(2)}`);
        }
        spark.length = tokens.length;
        spark.line.setAttribute("points", points.join(" "));
        const range = high === low ? spark.format(high) : `${spark.format(low)} \u2013 ${spark.format(high)}`;
        const one = chosen >= 0 && tokens[chosen] ? spark.format(tokens[chosen][spark.key]) : "";
        spark.range.textContent = one && high !== low ? `${one} in ${range}` : range;
        spark.svg.setAttribute("aria-label", `${spark.label} over ${tokens.length} tokens: ${range}`);
        const x = String((100 * (chosen + 0.5)) / tokens.length);
        spark.mark.setAttribute("x1", x);
        spark.mark.setAttribute("x2", x);
        spark.mark.style.display = one ? "" : "none";
      }
    },
  };
}

// Why k is what it is: the adaptive choice, or the rule that it follows; any part of either may be missing.
function drawWhy(box, choice) {
  box.hidden = !choice;
  if (!choice) return box.replaceChildren();
  if (choice.rule) {
    return box.replaceChildren(node("h3", "", `Why k varies: ${choice.rule}`), node("p", "lv-score", String(choice.what ?? "")),
      node("p", "lv-score", `k at least ${choice.k_min}, at most ${choice.k_max}`));
  }
  const children = [node("h3", "", choice.k === undefined ? "Why this k" : `Why k = ${choice.k}`)];
  const contributions = Array.isArray(choice.contributions) ? choice.contributions.filter((c) => c && typeof c === "object") : [];
  const points = (c) => (typeof c.points === "number" ? c.points : 0);
  const most = Math.max(0.001, ...contributions.map((c) => Math.abs(points(c))));
  const table = node("ul", "lv-reasons");
  for (const part of contributions) {
    const item = node("li");
    const bar = node("i");
    bar.style.setProperty("--lv-part", `${(100 * Math.abs(points(part))) / most}%`);
    if (points(part) < 0) bar.className = "lv-negative";
    const track = node("span", "lv-track");
    track.append(bar);
    const sign = points(part) >= 0 ? "+" : "";
    item.append(node("span", "lv-reason", String(part.label ?? part.name ?? "")), track, node("b", "", `${sign}${decimal(points(part), 2)}`));
    table.append(item);
  }
  if (contributions.length) children.push(table);
  if (typeof choice.score === "number") {
    const range = choice.k_min !== undefined && choice.k_max !== undefined ? ` between ${choice.k_min} and ${choice.k_max}` : "";
    children.push(node("p", "lv-score", `score ${decimal(choice.score, 2)}${choice.k === undefined ? "" : ` \u2192 k = ${choice.k}${range}`}`));
  }
  const terms = Array.isArray(choice.terms) ? choice.terms.filter((t) => t && typeof t === "object") : [];
  if (terms.length) {
    const line = node("p", "lv-terms");
    line.append(node("span", "", "Technical terms found"));
    for (const term of terms.slice(0, 24)) {
      const chip = node("span", "lv-term", visible(String(term.term ?? ""), false));
      if (term.field) chip.append(" ", node("small", "", String(term.field).replaceAll("_", " ")));
      line.append(chip);
    }
    if (terms.length > 24) line.append(node("span", "", `and ${terms.length - 24} more`));
    children.push(line);
  }
  return box.replaceChildren(...children);
}
