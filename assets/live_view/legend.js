// The legend: the scale with numbers and a unit, and the uniform share as a mark to judge by.

function createLegend(parts) {
  const context = parts.scale.getContext("2d");
  const tick = (at, text, name) => {
    const node = document.createElement("span");
    node.textContent = text;
    node.className = name;
    node.style.left = `${Math.min(100, 100 * at)}%`;
    return node;
  };
  let drawn = "";
  return {
    // max, uniform and format are of the values shown; uniform: what each expert would have if all were alike.
    draw({ max, uniform, format, unit, colours }) {
      const key = [max, uniform, unit, colours.table[0]].join("|");
      if (key === drawn) return;
      drawn = key;
      parts.scale.width = colours.table.length;
      parts.scale.height = 1;
      colours.table.forEach((colour, i) => {
        context.fillStyle = colour;
        context.fillRect(i, 0, 1, 1);
      });
      const ticks = [tick(1, format(max), "lv-tick lv-max")];
      const at = position(uniform, max);
      if (uniform > 0 && at < 0.99) ticks.push(tick(at, at < 0.65 ? `uniform ${format(uniform)}` : "", "lv-tick lv-uniform"));
      parts.ticks.replaceChildren(...ticks);
      parts.unit.textContent = unit;
    },
  };
}
