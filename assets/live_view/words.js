// Numbers and texts as the page says them.

function decimal(value, digits) {
  const text = Math.abs(value).toFixed(digits).replace(/^0(?=\.)/, "");
  return (value < 0 && Number(text) !== 0 ? "\u2212" : "") + text;
}

function weightText(weight) {
  return weight > 0 && weight < 0.0005 ? "< .001" : decimal(weight, weight >= 9.9995 ? 1 : weight >= 0.9995 ? 2 : 3);
}

function percent(part, whole) {
  if (!whole) return "0 %";
  const value = (100 * part) / whole;
  return `${value > 0 && value < 9.95 && value !== Math.round(value) ? value.toFixed(1) : Math.round(value)} %`;
}

function uniformText(k, experts) {
  return `${Number(((100 * k) / experts).toFixed(1))} %`;
}

function large(count) {
  for (const [size, unit] of [[1e9, "B"], [1e6, "M"], [1e3, "K"]]) {
    if (count >= size) return `${(count / size).toPrecision(3)}${unit}`;
  }
  return String(count);
}

function grouped(count) {
  return count >= 1e4 ? count.toLocaleString("en-US").replace(/,/g, "\u202f") : String(count);
}

function plural(count, word) {
  return `${grouped(count)} ${word}${count === 1 ? "" : "s"}`;
}

// A token's text with what cannot be seen made visible; `breaks` keeps the line breaks too.
function visible(text, breaks) {
  if (text === "") return "\u00b7"; // a part of a character
  return text
    .replace(/\r?\n/g, breaks ? "\u21b5\n" : "\u21b5").replace(/\t/g, "\u21e5")
    .replace(/[\u0000-\u0009\u000b-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)))
    .replace(/\u007f/g, "\u2421")
    .replace(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, "\ufffd")
    .replace(/[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g, (c) => `[${c.charCodeAt(0).toString(16)}]`);
}

function quoted(text) {
  // Isolated, so that right-to-left letters do not reorder the sentence around them.
  return `\u201c\u2068${visible(text, false)}\u2069\u201d`;
}

function cellName(cell) {
  return `layer ${cell.layer}, expert ${cell.expert}`;
}

// k may be a mean, where it differs from token to token or layer to layer.
function kText(k) {
  return String(Number(k.toFixed(1)));
}

function captionOf(state, shown, k) {
  const { scope, phase, token, store } = state;
  const each = `${Number.isInteger(k) ? "" : "on average "}${kText(k)} of ${store.shape.experts} experts a layer`;
  if (scope === "token") {
    const one = token ? token.token : store.latest();
    return one ? `${quoted(one.text)}: ${each}` : "";
  }
  const of = { prefill: "the prompt", decode: "the reply", both: "prompt and reply" }[phase];
  if (scope === "chat") {
    const all = { prefill: "all prompts", decode: "all replies", both: "all prompts and replies" }[phase];
    return `${plural(shown.tokens, "token")} of ${all} in this chat`;
  }
  return `${plural(shown.tokens, "token")} of ${of} \u00d7 ${each}`;
}

// 'layer 7, expert 23: 41 of 96 tokens (43 %), mean weight .061; uniform share 12.5 %'
function cellText(cell, state, shown, k) {
  const { store, scope } = state;
  const at = cell.layer * store.shape.experts + cell.expert;
  if (scope === "token") {
    const one = state.token ? state.token.token : store.latest();
    if (!one) return `${cellName(cell)}.`;
    const weight = weightIn(one, cell.layer, cell.expert, store.shape.experts);
    if (weight < 0) return `${cellName(cell)}: not selected for ${quoted(one.text)}`;
    let rank = 1, active = 0;
    for (let e = 0; e < store.shape.experts; e++) {
      const other = weightIn(one, cell.layer, e, store.shape.experts);
      if (other >= 0) active++;
      if (other > weight) rank++;
    }
    return `${cellName(cell)}: weight ${weightText(weight)} for ${quoted(one.text)}, rank ${rank} of ${active}`;
  }
  if (!shown.tokens) return `${cellName(cell)}: no tokens yet`;
  const count = shown.counts[at];
  const uniform = state.mixed ? "" : `; uniform share ${uniformText(k, store.shape.experts)}`;
  if (!count) return `${cellName(cell)}: 0 of ${plural(shown.tokens, "token")}${uniform}`;
  return `${cellName(cell)}: ${grouped(count)} of ${plural(shown.tokens, "token")} (${percent(count, shown.tokens)}), `
    + `mean weight ${weightText(shown.weights[at] / count)}${uniform}`;
}
