// Small pictures made of elements, so that the theme, the zoom and the screen reader have them as they have text.

function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("--")) node.style.setProperty(name, value);
    else if (name === "text") node.textContent = value;
    else if (name === "click") node.addEventListener("click", value);
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

// head: texts; rows: arrays of texts or elements; a row may have a `mark`.
function table(head, rows, caption) {
  const cell = (content, tag = "td") => {
    const node = make(tag, tag === "th" ? { scope: "col" } : null);
    node.append(content);
    return node;
  };
  return make("div", { class: "in-scroll", tabindex: "0", role: "region", "aria-label": caption },
    make("table", null,
      make("thead", null, make("tr", null, ...head.map((text) => cell(text, "th")))),
      make("tbody", null, ...rows.map((row) => make("tr", { class: row.mark || null }, ...row.map((content) => cell(content)))))));
}

function bar(value, max, on = true) {
  return make("span", { class: on ? "in-bar" : "in-bar in-off", "aria-hidden": "true", "--part": max > 0 ? Math.min(1, value / max).toFixed(4) : "0" }, make("i"));
}

// One cell a value: the accent is positive, amber negative, strength relative to the largest of all strips shown.
function strip(values, most, label) {
  return make("div", { class: "in-strip", role: "img", "aria-label": label }, ...Array.from(values, (value) =>
    make("i", { class: value < 0 ? "in-minus" : null, "--v": `${Math.round(100 * Math.sqrt(Math.abs(value) / (most || 1)))}%`, title: short(value) })));
}

// rows: [name, vector]; the first 64 values as strips, the first four in figures, and the norm.
function vectors(rows) {
  const most = Math.max(...rows.map(([, vector]) => vector.values.reduce((a, b) => Math.max(a, Math.abs(b)), 0)));
  const first = rows[0][1];
  return make("div", { class: "in-vectors" },
    ...rows.map(([name, vector]) => make("div", { class: "in-vector" },
      make("div", null, make("b", { text: name }), make("span", { text: `norm ${short(vector.norm)}` })),
      strip(vector.values, most, `${name}: its first ${vector.values.length} values as colours`),
      make("p", { text: `[${Array.from(vector.values.slice(0, 4), short).join(", ")}, \u2026]` }))),
    make("p", { class: "in-quiet", text: `Colours: the first ${first.values.length} of ${first.size} values; violet is positive, amber negative.` }));
}

// A column a value, by index; `on(i)` is lit. A line may mark a level.
function columns(values, { on = () => true, level = null, label, title = (i) => short(values[i]), cuts = [] }) {
  const high = Math.max(0, ...values), low = Math.min(0, ...values);
  const span = high - low || 1;
  const place = make("div", { class: "in-columns-plot", role: "img", "aria-label": label, "--zero": `${(100 * -low / span).toFixed(2)}%` });
  values.forEach((value, i) => {
    place.append(make("i", { class: on(i) ? "in-lit" : null, title: title(i), "--from": `${(100 * (Math.min(value, 0) - low) / span).toFixed(2)}%`, "--high": `${(100 * Math.abs(value) / span).toFixed(2)}%`, "--x": ((i + 0.5) / values.length).toFixed(5), "--w": (1 / values.length).toFixed(5) }));
  });
  if (level !== null) place.append(make("u", { "--at": `${(100 * (level - low) / span).toFixed(2)}%` }));
  for (const [at, text] of cuts) {
    place.append(make("b", { class: at > values.length * 0.85 ? "in-left" : null, "--x": (at / values.length).toFixed(5) }, make("span", { text })));
  }
  return place;
}
