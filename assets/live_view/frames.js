// Values of the component -> numbers. A frame has cumulative sums and the tokens since the frame before; the last one
// has everything, so a frame that never came leaves nothing wrong.

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

let halves = null; // float16 bits -> number
function floatsOf(bytes, bytesEach) {
  if (bytesEach === 4) return new Float32Array(bytes.buffer);
  if (!halves) {
    halves = new Float32Array(65536);
    for (let bits = 0; bits < 65536; bits++) {
      const exponent = (bits >> 10) & 31, fraction = bits & 1023;
      const size = exponent === 0 ? fraction * 2 ** -24
        : exponent === 31 ? (fraction ? NaN : Infinity) : (1 + fraction / 1024) * 2 ** (exponent - 15);
      halves[bits] = bits & 32768 ? -size : size;
    }
  }
  return Float32Array.from(new Uint16Array(bytes.buffer), (bits) => halves[bits]);
}

// counts and weights over [layers x experts], row by row.
function totalsOf(coded, cells) {
  const counts = bytesOf(coded.counts), weights = bytesOf(coded.weights);
  return {
    tokens: coded.tokens, mass: coded.mass, entropy: coded.entropy,
    counts: Float64Array.from(counts.length === 2 * cells ? new Uint16Array(counts.buffer) : new Uint32Array(counts.buffer)),
    weights: Float64Array.from(floatsOf(weights, weights.length / cells)),
  };
}

function noTotals(cells) {
  return { tokens: 0, mass: 0, entropy: 0, counts: new Float64Array(cells), weights: new Float64Array(cells) };
}

function sum(a, b) {
  return {
    tokens: a.tokens + b.tokens, mass: a.mass + b.mass, entropy: a.entropy + b.entropy,
    counts: a.counts.map((x, i) => x + b.counts[i]), weights: a.weights.map((x, i) => x + b.weights[i]),
  };
}

// A chunk's tokens, put at their places in `list`.
function takeTokens(list, chunk, layers, experts) {
  if (!chunk || !chunk.texts.length) return;
  const chosen = chunk.experts ? bytesOf(chunk.experts) : null;
  const weights = floatsOf(bytesOf(chunk.weights), 2);
  const width = chosen ? layers * chunk.width : layers * experts;
  chunk.texts.forEach((text, i) => {
    list[chunk.from + i] = {
      text, k: chunk.ks[i], width: chunk.width, mass: chunk.mass[i], entropy: chunk.entropy[i],
      chosen: chosen && chosen.subarray(i * width, (i + 1) * width),
      weights: weights.subarray(i * width, (i + 1) * width),
    };
  });
}

// The weight with which an expert worked on a token; -1 if it did not.
function weightIn(token, layer, expert, experts) {
  if (!token.chosen) return token.weights[layer * experts + expert];
  for (let i = layer * token.width; i < (layer + 1) * token.width; i++) if (token.chosen[i] === expert) return token.weights[i];
  return -1;
}

// One token as totals: its own map.
function mapOf(token, layers, experts) {
  const map = noTotals(layers * experts);
  map.tokens = 1;
  map.mass = token.mass;
  map.entropy = token.entropy;
  for (let i = 0; i < token.weights.length; i++) {
    const cell = token.chosen ? Math.floor(i / token.width) * experts + token.chosen[i] : i;
    if (token.weights[i] >= 0) {
      map.counts[cell] = 1;
      map.weights[cell] = token.weights[i];
    }
  }
  return map;
}

// What the page knows of the request that it shows, and of the chat before it.
function createStore(shape) {
  const store = { shape: { layers: shape.num_layers, experts: shape.num_experts }, frame: null };
  const clear = () => {
    const cells = store.shape.layers * store.shape.experts;
    Object.assign(store, { prefill: noTotals(cells), decode: noTotals(cells), prompt: [], reply: [], choice: null });
  };
  const forget = () => {
    clear();
    const cells = store.shape.layers * store.shape.experts;
    store.frame = null;
    store.before = { prefill: noTotals(cells), decode: noTotals(cells) };
  };
  forget();

  // Takes a value; true if it began another request (or emptied the view).
  store.take = (value) => {
    if (!value) {
      forget();
      return true;
    }
    const frame = JSON.parse(value);
    if (frame.version !== 1) throw new Error(`live view: unknown format ${frame.version}`);
    const { num_layers: layers, num_experts: experts } = frame;
    if (layers !== store.shape.layers || experts !== store.shape.experts) {
      store.shape = { layers, experts };
      forget();
    }
    const fresh = !store.frame || store.frame.request !== frame.request;
    if (fresh) {
      // Should the frame that brings the chat's totals get lost, this is what they are.
      store.before = { prefill: sum(store.before.prefill, store.prefill), decode: sum(store.before.decode, store.decode) };
      clear();
    }
    const cells = layers * experts;
    store.frame = frame;
    store.prefill = totalsOf(frame.prefill, cells);
    store.decode = totalsOf(frame.decode, cells);
    if (frame.chat) store.before = { prefill: totalsOf(frame.chat.prefill, cells), decode: totalsOf(frame.chat.decode, cells) };
    if (frame.choice !== undefined) store.choice = frame.choice;
    takeTokens(store.prompt, frame.prompt, layers, experts);
    takeTokens(store.reply, frame.reply, layers, experts);
    return fresh;
  };

  // The latest token that has gone through the experts.
  store.latest = () => store.reply[store.reply.length - 1] || store.prompt[store.prompt.length - 1] || null;

  // What is to be shown. scope: token, reply or chat; token: the chosen one, else the latest.
  store.view = (scope, phase, token) => {
    if (scope === "token") {
      const one = token || store.latest();
      return one ? mapOf(one, store.shape.layers, store.shape.experts) : noTotals(store.shape.layers * store.shape.experts);
    }
    const part = (name) => (scope === "chat" ? sum(store.before[name], store[name]) : store[name]);
    return phase === "both" ? sum(part("prefill"), part("decode")) : part(phase);
  };
  return store;
}
