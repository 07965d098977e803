// The map: layers x experts on a canvas, sharp at any pixel density. It draws what it is told and finds cells; it
// knows no tokens.

const GUTTER = { left: 36, top: 2, right: 2, bottom: 29 };

function createHeatmap(canvas) {
  const context = canvas.getContext("2d");
  const map = { layers: 1, experts: 1, width: 0, height: 0, row: 0 };

  // Fits the canvas into `width` CSS pixels; true if its size changed.
  map.fit = (width, shape) => {
    const ratio = window.devicePixelRatio || 1;
    const column = (width - GUTTER.left - GUTTER.right) / shape.experts;
    const row = Math.max(4, Math.round(Math.min(Math.max(13, column * 2), 24, Math.max(4, 480 / shape.layers))));
    const height = GUTTER.top + row * shape.layers + GUTTER.bottom;
    Object.assign(map, { layers: shape.layers, experts: shape.experts, width, height, row, ratio });
    const pixels = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width === pixels[0] && canvas.height === pixels[1]) return false;
    [canvas.width, canvas.height] = pixels;
    canvas.style.height = `${height}px`;
    return true;
  };

  // Edges of a cell in device pixels, on whole ones.
  const box = (layer, expert) => {
    const { ratio, row, experts, width } = map;
    const plot = (width - GUTTER.left - GUTTER.right) * ratio;
    const x = Math.round(GUTTER.left * ratio + (expert * plot) / experts);
    const right = Math.round(GUTTER.left * ratio + ((expert + 1) * plot) / experts);
    const y = Math.round((GUTTER.top + layer * row) * ratio);
    const bottom = Math.round((GUTTER.top + (layer + 1) * row) * ratio);
    const gap = plot / experts >= 4 * ratio ? Math.max(1, Math.round(ratio)) : plot / experts >= 3 ? 1 : 0;
    return { x, y, w: right - x - gap, h: bottom - y - (row >= 6 ? Math.max(1, Math.round(ratio)) : gap), gap };
  };

  map.cellAt = (x, y) => {
    const expert = Math.floor(((x - GUTTER.left) / (map.width - GUTTER.left - GUTTER.right)) * map.experts);
    const layer = Math.floor((y - GUTTER.top) / map.row);
    const inside = expert >= 0 && expert < map.experts && layer >= 0 && layer < map.layers;
    return inside ? { layer, expert } : null;
  };

  const outline = (cell, colour, width) => {
    const b = box(cell.layer, cell.expert);
    const line = Math.max(1, Math.round(width * map.ratio));
    context.strokeStyle = colour;
    context.lineWidth = line;
    context.strokeRect(b.x - line / 2, b.y - line / 2, b.w + line, b.h + line);
  };

  const underline = (cell, colour) => {
    const b = box(cell.layer, cell.expert);
    context.fillStyle = colour;
    context.fillRect(b.x, b.y + b.h - Math.round(map.ratio), b.w, Math.round(2 * map.ratio));
  };

  const labels = (colours) => {
    const { ratio } = map;
    context.fillStyle = colours.muted;
    context.font = `${Math.round(10 * ratio)}px ${colours.font}`;
    context.textBaseline = "middle";
    context.textAlign = "right";
    const everyRow = [1, 2, 4, 8, 16].find((n) => n * map.row >= 12) || 32;
    for (let layer = 0; layer < map.layers; layer += everyRow) {
      context.fillText(String(layer), (GUTTER.left - 6) * ratio, (GUTTER.top + (layer + 0.5) * map.row) * ratio);
    }
    const column = (map.width - GUTTER.left - GUTTER.right) / map.experts;
    const everyColumn = [1, 2, 4, 8, 16, 32].find((n) => n * column >= 22) || 64;
    context.textAlign = "center";
    const y = GUTTER.top + map.row * map.layers + 8;
    for (let expert = 0; expert < map.experts; expert += everyColumn) {
      context.fillText(String(expert), (GUTTER.left + (expert + 0.5) * column) * ratio, y * ratio);
    }
    context.font = `${Math.round(11 * ratio)}px ${colours.font}`;
    context.fillText("expert", ((GUTTER.left + map.width - GUTTER.right) / 2) * ratio, (y + 14) * ratio);
    context.save();
    context.translate(8 * ratio, (GUTTER.top + (map.row * map.layers) / 2) * ratio);
    context.rotate(-Math.PI / 2);
    context.fillText("layer", 0, 0);
    context.restore();
  };

  // values and max in the same unit; used: which cells are not "none"; fired: cells at work right now.
  map.draw = ({ values, used, max, fired, pinned, cursor, colours }) => {
    context.clearRect(0, 0, canvas.width, canvas.height);
    for (let layer = 0; layer < map.layers; layer++) {
      for (let expert = 0; expert < map.experts; expert++) {
        const at = layer * map.experts + expert;
        const b = box(layer, expert);
        context.fillStyle = used[at] ? colourOf(colours.table, values[at], max) : colours.none;
        context.fillRect(b.x, b.y, Math.max(1, b.w), Math.max(1, b.h));
      }
    }
    labels(colours);
    // Many outlines would be a lattice over the colours: then each cell at work is only underlined.
    const many = fired.length > (map.layers * map.experts) / 4;
    for (const cell of fired) {
      if (many) underline(cell, colours.accent);
      else outline(cell, colours.accent, 1.25);
    }
    if (pinned) {
      outline(pinned, colours.surface, 3.5);
      outline(pinned, colours.text, 2);
    }
    if (cursor) outline(cursor, colours.text, 1.5);
  };
  return map;
}
