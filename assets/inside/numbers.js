// A walk's arrays and numbers, as the page reads and says them.

function floats(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

// Three significant digits and more, with a true minus.
function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e4 || size < 1e-4 ? size.toExponential(1) : size < 1 ? size.toPrecision(3) : size.toFixed(size >= 100 ? 1 : 2);
  return (value < 0 ? "\u2212" : "") + text;
}

function share(value) {
  return value > 0 && value < 0.0005 ? "< .1 %" : `${(100 * value).toFixed(1)} %`;
}

function readVector(vector) {
  return { ...vector, values: floats(vector.values) };
}

function readWalk(value) {
  const layers = value.layers.map((layer) => {
    const read = { ...layer };
    for (const name of ["stream_in", "attention_input", "attention_output", "stream_between", "experts_input", "experts_output", "stream_out"]) {
      read[name] = readVector(layer[name]);
    }
    for (const name of ["attention", "router_logits", "probabilities"]) read[name] = floats(layer[name]);
    read.experts = layer.experts.map((work) => ({ ...work, output: readVector(work.output) }));
    return read;
  });
  return { ...value, layers, embedding: readVector(value.embedding), final_norm: readVector(value.final_norm), logits: floats(value.logits) };
}

// The distribution that tokens are drawn from: softmax(logits / temperature) over all of the vocabulary, then the
// smallest set of the most probable that reaches topP. `logits` come largest first. Temperature 0 is greedy.
function nextDistribution(logits, temperature, topP) {
  if (temperature === 0) return { probs: [1], kept: 1, mass: 1 };
  const probs = new Float64Array(logits.length);
  let total = 0;
  for (let i = 0; i < logits.length; i++) total += probs[i] = Math.exp((logits[i] - logits[0]) / temperature);
  let kept = 0, mass = 0;
  for (let i = 0; i < probs.length; i++) {
    probs[i] /= total;
    if (kept === i && (topP >= 1 || mass < topP)) {
      mass += probs[i];
      kept++;
    }
  }
  return { probs, kept, mass };
}
