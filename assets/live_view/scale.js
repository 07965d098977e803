// Colours of the map. Sequential, monotone in lightness, told apart with any kind of colour blindness (blue to yellow,
// no red against green). Few is near the background in both themes: pale on light, deep on dark. None is no colour of
// the scale but the grid's own.

const STOPS = {
  light: ["#e3f0c4", "#a5d9b2", "#5bbab6", "#2d90b8", "#2a61a5", "#2a398a", "#1b1a5a"],
  dark: ["#29307a", "#2a55a6", "#2a7fb6", "#38a8b2", "#70caa3", "#b6e29f", "#f8facf"],
};
const STEPS = 256;

function isDark() {
  return document.body.classList.contains("dark") || document.documentElement.classList.contains("dark");
}

// 256 CSS colours from few to many.
function colourTable(stops) {
  const rgb = stops.map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  const table = [];
  for (let i = 0; i < STEPS; i++) {
    const at = (i / (STEPS - 1)) * (rgb.length - 1);
    const low = Math.min(Math.floor(at), rgb.length - 2);
    const mixed = rgb[low].map((value, c) => Math.round(value + (rgb[low + 1][c] - value) * (at - low)));
    table.push(`rgb(${mixed.join(",")})`);
  }
  return table;
}

const TABLES = { light: colourTable(STOPS.light), dark: colourTable(STOPS.dark) };

// The theme as the script draws it; text and accent come from the page's own variables.
function palette(element) {
  const style = getComputedStyle(element);
  const read = (name) => style.getPropertyValue(name).trim();
  return {
    table: isDark() ? TABLES.dark : TABLES.light,
    none: read("--lv-none"), text: read("--lv-text"), muted: read("--lv-muted"), accent: read("--lv-accent"),
    surface: read("--lv-surface"), font: style.fontFamily,
  };
}

// Where a value lies on the scale, in [0, 1]. A power below 1, because most experts get few tokens, and telling 2
// from 8 says more than telling 80 from 86. The legend has the numbers.
const POWER = 0.7;
function position(value, max) {
  return Math.max(0, Math.min(1, value / max)) ** POWER;
}

function colourOf(table, value, max) {
  return table[Math.round(position(value, max) * (STEPS - 1))];
}

// A calm crowd of callers: the theme changes, the listener is told.
function onThemeChange(listener) {
  const observer = new MutationObserver(listener);
  for (const node of [document.body, document.documentElement]) {
    observer.observe(node, { attributes: true, attributeFilter: ["class"] });
  }
  return () => observer.disconnect();
}
