// The race's table: fewest experts first. Texts enter through textContent only.
const signed = (x) => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(3)}`;

function row(entry, view) {
  const line = document.createElement("tr");
  const name = make("th", "", `${entry.on_front ? "● " : ""}${entry.policy}`);
  name.scope = "row";
  if (entry.on_front) name.setAttribute("aria-label", `${entry.policy}, on the Pareto front`);
  line.className = [entry.on_front ? "cmp-front" : "", entry.family === view.control ? "cmp-control" : ""].join(" ");
  line.append(name, make("td", "", entry.mean_k.toFixed(2)), make("td", "", entry.mean_nll.toFixed(3)),
    make("td", "", entry.change_nll === null ? "" : signed(entry.change_nll)));
  return line;
}

function draw() {
  const view = props.value ? JSON.parse(props.value) : null;
  $(".cmp-race").hidden = !view;
  if (!view) return;
  $(".cmp-doing").textContent = view.doing
    || `${view.stopped ? "Stopped. " : ""}${view.rows.length} runs over ${view.tokens} tokens of ${view.what}.`;
  $(".cmp-verdict").textContent = view.doing ? "" : view.verdict;
  const head = document.createElement("tr");
  for (const title of ["policy", "mean k", "nats a token", `against k=${view.own_k}`]) {
    const cell = make("th", "", title);
    cell.scope = "col";
    head.append(cell);
  }
  const rows = [...view.rows].sort((a, b) => a.mean_k - b.mean_k || a.mean_nll - b.mean_nll);
  $("table").replaceChildren(head, ...rows.map((entry) => row(entry, view)));
}

watch("value", draw);
draw();
