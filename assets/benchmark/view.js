// A benchmark as table, and the claims beside what was measured. Texts enter through textContent only.
const digits = (x, n = 3) => (x === null ? "–" : x >= 100 ? x.toFixed(0) : Number(x.toPrecision(n)).toString());
const span = (s) => (s < 1 ? `${digits(1000 * s)} ms` : `${digits(s)} s`);
const size = (n) => (n >= 1e9 ? `${(n / 1e9).toPrecision(3)}B` : `${(n / 1e6).toPrecision(3)}M`);
const bytes = (n) => (n >= 1e9 ? `${(n / 1e9).toPrecision(3)} GB` : `${(n / 1e6).toPrecision(3)} MB`);
const COLUMNS = [
  ["k", (r, own) => `${r.k}${r.k === own ? " (own)" : ""}`, "active experts"],
  ["time", (r) => span(r.seconds), "the whole reply, median"],
  ["first token", (r) => span(r.first_token_s), "from the request to its first token, median"],
  ["tok/s", (r) => digits(r.tokens_per_s), "after the first token, median"],
  ["relative", (r) => (r.relative_speed === null ? "–" : `${r.relative_speed.toFixed(2)} ×`), "speed against the model’s own k"],
  ["stock tok/s", (r) => digits(r.stock_tokens_per_s), "generate of transformers on the same weights"],
  ["ours ÷ stock", (r) => (r.stock_tokens_per_s ? `${(r.tokens_per_s / r.stock_tokens_per_s).toFixed(2)} ×` : "–"), "speed"],
  ["limit tok/s", (r) => digits(r.limit_tokens_per_s), "what the memory’s speed allows"],
  ["read a token", (r) => bytes(r.bytes_per_token), "bytes that a decoded token must read"],
  ["active", (r) => size(r.active_params), "parameters that take part in a token"],
  ["mass", (r) => r.routing_mass.toFixed(2), "share of the routers’ probability that is selected"],
  ["peak memory", (r) => bytes(r.peak_bytes), "the most in use while ours ran"],
];

function draw() {
  const view = props.value ? JSON.parse(props.value) : null;
  $(".bm").hidden = !view;
  if (!view) return;
  const bar = $(".bm-bar");
  bar.hidden = !view.doing;
  bar.max = view.of;
  bar.value = view.done;
  $(".bm-doing").textContent = view.doing ? `${view.doing} … ${view.seconds.toFixed(0)} s`
    : `${view.stopped ? "Stopped; this is what was measured in" : "Measured in"} ${view.seconds.toFixed(1)} s.`;
  $(".bm-where").textContent = view.where;
  const head = make("tr");
  head.append(...COLUMNS.map(([name, , help]) => {
    const cell = make("th", "", name);
    cell.scope = "col";
    cell.title = help;
    return cell;
  }));
  $(".bm-table-place").hidden = $(".bm-limit").hidden = !view.rows.length;
  $(".bm-table").replaceChildren(head, ...view.rows.map((r) => {
    const row = make("tr");
    row.append(...COLUMNS.map(([, text], i) => make(i ? "td" : "th", "", text(r, view.own))));
    row.firstChild.scope = "row";
    return row;
  }));
  $(".bm-claims").hidden = !view.claims.length;
  const titles = make("tr");
  titles.append(...["about", "claimed", "measured here", "verdict"].map((name) => make("th", "", name)));
  $(".bm-claim-table").replaceChildren(titles, ...view.claims.map((claim) => {
    const row = make("tr");
    const kind = { "as claimed": "bm-yes", "not so here": "bm-no" }[claim.verdict] ?? "bm-other";
    row.append(make("th", "", claim.topic), make("td", "", claim.claimed), make("td", "", claim.measured), make("td", kind, claim.verdict));
    row.firstChild.scope = "row";
    return row;
  }));
}
draw();
watch("value", draw);
