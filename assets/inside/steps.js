// The steps of a forward: what each is called, does, shows, and what is often told of it that is not so.
// at: {walk, s (the model's shape), l (layer's index), layer, piece(i)}.

const WEIGHTS = { raw: "as they are", renormalised: "divided by their sum", mass_preserving: "scaled to the mass of the model's own k" };
const sum = (list) => list.reduce((a, b) => a + b, 0);
const ordered = (values) => Array.from(values.keys()).sort((a, b) => values[b] - values[a]);
const count = (at) => plural(at.walk.token + 1, "token");

const STEPS = [
  {
    id: "tokens", name: "Text to tokens", part: "before",
    shape: (at) => `text \u2192 int64 [${at.walk.ids.length}]`,
    say: () => "The tokenizer cuts the text into pieces it knows. Each piece has a number, and from here on there are only numbers.",
    show: (at) => table(["Place", "Piece", "Token id"], at.walk.ids.map((id, i) => Object.assign(
      [String(i), visible(at.walk.pieces[i], false), String(id)], { mark: i === at.walk.token ? "in-on" : null })), "Tokens"),
    truth: () => "\u201cArtificial intelligence is\u201d is often given as three tokens, 3163, 11478 and 374. OLMoE\u2019s tokenizer makes four of it: 11796, 11232, 9260, 310 (Art|ificial| intelligence| is). The table above is from the model loaded here.",
  },
  {
    id: "embedding", name: "Embedding", part: "before",
    shape: (at) => `[${at.walk.ids.length}] \u2192 ${at.s.dtype} [${at.walk.ids.length}, ${at.s.hidden_size}]`,
    say: (at) => `The id picks one row of a table of ${grouped(at.s.vocab_size)}. That row starts the residual stream: the vector to which every layer adds, twice.`,
    show: (at) => vectors([[`Row ${at.walk.ids[at.walk.token]}`, at.walk.embedding]]),
  },
  {
    id: "attention-norm", name: "Norm", part: "attention",
    shape: (at) => `${at.s.dtype} [${at.s.hidden_size}] \u2192 [${at.s.hidden_size}]`,
    say: () => "RMSNorm: the stream divided by the root of its mean square, times a learned gain for each value. Attention reads this copy; the stream itself stays as it is.",
    show: (at) => vectors([["Stream", at.layer.stream_in], ["Normed", at.layer.attention_input]]),
  },
  {
    id: "attention", name: "Attention", part: "attention",
    shape: (at) => `queries [${at.s.num_heads}, ${at.s.head_dim}] \u00b7 keys [${at.s.num_kv_heads}, ${at.walk.token + 1}, ${at.s.head_dim}] \u2192 weights float32 [${at.s.num_heads}, ${at.walk.token + 1}] \u2192 ${at.s.dtype} [${at.s.hidden_size}]`,
    say: (at) => `Each of ${at.s.num_heads} heads spreads a weight of 1 over the ${count(at)} up to this one and adds up their values. Here text flows between tokens; everywhere else a token is alone.`,
    show: showAttention, check: "attention",
    truth: (at) => `Often drawn as all attention first and one router after it. They alternate: each of the ${at.s.num_layers} layers has attention and then a router of its own.`,
  },
  {
    id: "attention-add", name: "Add to the stream", part: "attention", node: true,
    shape: (at) => `${at.s.dtype} [${at.s.hidden_size}] + [${at.s.hidden_size}]`,
    say: () => "What attention found is added to the stream. Nothing is overwritten.",
    show: (at) => vectors([["Stream", at.layer.stream_in], ["+ attention", at.layer.attention_output], ["= stream", at.layer.stream_between]]),
    check: "residual",
  },
  {
    id: "experts-norm", name: "Norm", part: "experts",
    shape: (at) => `${at.s.dtype} [${at.s.hidden_size}] \u2192 [${at.s.hidden_size}]`,
    say: () => "Normed again, with this block\u2019s own gains. The router and the experts all read this one vector.",
    show: (at) => vectors([["Stream", at.layer.stream_between], ["Normed", at.layer.experts_input]]),
  },
  {
    id: "router", name: "Router logits", part: "experts",
    shape: (at) => `[${at.s.hidden_size}] \u00d7 [${at.s.num_experts}, ${at.s.hidden_size}] \u2192 float32 [${at.s.num_experts}]`,
    say: (at) => `One matrix gives each of the ${at.s.num_experts} experts a score: the router is nothing more.`,
    show: (at) => {
      const logits = at.layer.router_logits, best = ordered(logits), chosen = new Set(at.layer.experts.map((w) => w.expert));
      const low = Math.min(...logits); // softmax sees differences only
      return make("div", null,
        columns(logits.map((x) => x - low), { on: (i) => chosen.has(i), label: `Router logits of ${logits.length} experts`, title: (i) => `expert ${i}: ${short(logits[i])}` }),
        axis(at.s.num_experts, "expert"),
        make("p", { class: "in-quiet", text: `Bars start at the smallest logit, ${short(low)}. Lit: selected at k = ${at.walk.k}.` }),
        table(["Expert", "Logit"], best.slice(0, 5).map((e) => [String(e), short(logits[e])]), "Largest router logits"));
    },
    check: "router",
  },
  {
    id: "softmax", name: "Softmax", part: "experts",
    shape: (at) => `float32 [${at.s.num_experts}] \u2192 [${at.s.num_experts}]`,
    say: (at) => `The scores become shares that sum to 1 over all ${at.s.num_experts} experts, before any is chosen. Entropy ${at.layer.entropy.toFixed(2)} of at most ${Math.log(at.s.num_experts).toFixed(2)} nats.`,
    show: (at) => {
      const p = at.layer.probabilities, chosen = new Set(at.layer.experts.map((w) => w.expert));
      return make("div", null,
        columns(p, { on: (i) => chosen.has(i), level: 1 / p.length, label: `Shares of ${p.length} experts; the line is the even share`, title: (i) => `expert ${i}: ${share(p[i])}` }),
        axis(p.length, "expert"), make("p", { class: "in-quiet", text: `Line: the even share, ${share(1 / p.length)}. Lit: selected at k = ${at.walk.k}.` }));
    },
  },
  {
    id: "selection", name: "Selection", part: "experts",
    shape: (at) => `float32 [${at.s.num_experts}] \u2192 experts int64 [${at.walk.k}], weights ${at.s.dtype} [${at.walk.k}]`,
    say: (at) => `The ${at.walk.k} largest shares are kept; together they hold a mass of ${at.layer.mass.toFixed(3)}. Their weights are the shares ${WEIGHTS[at.walk.weighting]}.`,
    show: showSelection,
    truth: () => "Mass is not \u201cknowledge used\u201d, nor a fixed 50, 68 and 85 %: for OLMoE\u2019s top 8 it was reported from .19 to .97, with medians of .30 to .55. It differs by layer and token, as here.",
  },
  {
    id: "swiglu", name: "Experts", part: "experts",
    shape: (at) => `[${at.s.hidden_size}] \u2192 gate, up [${at.s.intermediate_size}] each \u2192 down ${at.s.dtype} [${at.s.hidden_size}], \u00d7 ${at.walk.k}`,
    say: (at) => `Each selected expert reads the same vector: SiLU(gate) \u00d7 up, then down. What it adds is weight \u00d7 output.`,
    show: (at) => {
      const most = Math.max(...at.layer.experts.map((w) => w.contribution));
      return table(["Expert", "Share", "Weight", "Output norm", "Contribution", "", "First values of the output"], at.layer.experts.map((w) => [
        String(w.expert), share(w.probability), short(w.weight), short(w.output.norm), short(w.contribution), bar(w.contribution, most),
        Array.from(w.output.values.slice(0, 4), short).join(", "),
      ]), "Selected experts");
    },
    truth: () => "Often told as two matrices, 2048 \u2192 1024 \u2192 2048. It is a SwiGLU: three matrices (gate, up, down).",
  },
  {
    id: "mix", name: "Weighted sum", part: "experts",
    shape: (at) => `[${at.walk.k}] \u00d7 [${at.walk.k}, ${at.s.hidden_size}] \u2192 ${at.s.dtype} [${at.s.hidden_size}]`,
    say: (at) => `The outputs are added up, each times its weight; the weights sum to ${sum(at.layer.experts.map((w) => w.weight)).toFixed(3)}. Experts that were not selected add nothing.`,
    show: showMix, check: "experts",
    truth: (at) => `Often told as \u201c+ .50 \u00d7 residual uncertainty\u201d. No such term exists: the share of the others${at.walk.weighting === "raw" ? `, ${(1 - at.layer.mass).toFixed(3)} here,` : ""} is dropped.${at.walk.weighting === "raw" ? " And with raw weights it is a sum, not an average: every further expert adds to it." : ""}`,
  },
  {
    id: "experts-add", name: "Add to the stream", part: "experts", node: true,
    shape: (at) => `${at.s.dtype} [${at.s.hidden_size}] + [${at.s.hidden_size}]`,
    say: (at) => (at.l + 1 < at.s.num_layers ? `The experts\u2019 sum is added, and layer ${at.l + 1} begins with the result.` : "The experts\u2019 sum is added. This was the last layer."),
    show: (at) => make("div", null,
      vectors([["Stream", at.layer.stream_between], ["+ experts", at.layer.experts_output], ["= stream", at.layer.stream_out]]),
      make("h4", { text: "Length of the stream after each layer" }),
      columns(at.walk.layers.map((l) => l.stream_out.norm), { on: (i) => i === at.l, label: "Norm of the stream after each layer", title: (i) => `layer ${i}: ${short(at.walk.layers[i].stream_out.norm)}` }),
      axis(at.s.num_layers, "layer"),
      make("p", { class: "in-quiet", text: `From ${short(at.walk.layers[0].stream_out.norm)} after layer 0 to ${short(at.walk.layers[at.s.num_layers - 1].stream_out.norm)} after the last. In this layer attention added a vector of norm ${short(at.layer.attention_output.norm)}, the experts one of ${short(at.layer.experts_output.norm)}.` })),
    check: "residual",
  },
  {
    id: "final-norm", name: "Final norm", part: "after",
    shape: (at) => `${at.s.dtype} [${at.s.hidden_size}] \u2192 [${at.s.hidden_size}]`,
    say: (at) => `After the last of ${at.s.num_layers} layers the stream is normed once more.`,
    show: (at) => vectors([["Stream", at.walk.layers[at.s.num_layers - 1].stream_out], ["Normed", at.walk.final_norm]]),
  },
  {
    id: "logits", name: "Logits", part: "after",
    shape: (at) => `[${at.s.hidden_size}] \u00d7 [${at.s.vocab_size}, ${at.s.hidden_size}] \u2192 float32 [${at.s.vocab_size}]`,
    say: (at) => `The head scores all ${grouped(at.s.vocab_size)} tokens of the vocabulary as the one to come after ${quoted(at.piece(at.walk.token))}.`,
    show: (at) => {
      const top = Array.from(at.walk.logits.slice(0, 10)), low = at.walk.logits[at.walk.logits.length - 1];
      return make("div", null,
        table(["Token", "Id", "Logit", ""], top.map((logit, i) => [quoted(at.walk.top_pieces[i]), String(at.walk.top_ids[i]), short(logit), bar(logit - low, top[0] - low)]), "Largest logits"),
        make("p", { class: "in-quiet", text: `Bars start at the smallest logit, ${short(low)}.` }));
    },
    check: "logits",
    truth: () => "The head of OLMoE-1B-7B is often given 50280 rows. It has 50304; 50280 of them stand for tokens.",
  },
  {
    id: "next", name: "Next token", part: "after",
    shape: (at) => `float32 [${at.s.vocab_size}] \u2192 probabilities [${at.s.vocab_size}]`,
    say: () => "Logits divided by the temperature, softmax, then the smallest set of tokens that reaches top-p. One of that set is drawn.",
    show: showNext,
    truth: () => "More experts give another distribution, not a surer or better one by rule: on WikiText, OLMoE\u2019s perplexity was 16.76 at k = 8, 17.59 at 16 and 52.48 at 64.",
  },
];

const PARTS = { before: "", attention: "Attention", experts: "Experts", after: "" };

function axis(size, word) {
  return make("p", { class: "in-axis", "aria-hidden": "true" }, make("span", { text: `${word} 0` }), make("span", { text: String(size - 1) }));
}

function showAttention(at) {
  const heads = at.s.num_heads, tokens = at.walk.token + 1, all = at.layer.attention;
  const mean = Array.from({ length: tokens }, (_, t) => sum(Array.from({ length: heads }, (_, h) => all[h * tokens + t])) / heads);
  const most = ordered(mean).slice(0, 24).sort((a, b) => a - b); // in the text's order
  const grid = make("div", { class: "in-heads", "--tokens": String(most.length), role: "img", "aria-label": `Weights of ${heads} heads over ${most.length} tokens, one row a head` });
  for (let h = 0; h < heads; h++) {
    for (const t of most) {
      const weight = all[h * tokens + t];
      grid.append(make("i", { "--v": `${Math.round(100 * weight)}%`, title: `head ${h}, ${visible(at.piece(t), false)}: ${share(weight)}` }));
    }
  }
  return make("div", null,
    table(["Token", "Mean of the heads", "", "Strongest head"], most.map((t) => {
      const each = Array.from({ length: heads }, (_, h) => all[h * tokens + t]), best = ordered(each)[0];
      return Object.assign([visible(at.piece(t), false), share(mean[t]), bar(mean[t], Math.max(...mean)), `head ${best}: ${share(each[best])}`], { mark: t === at.walk.token ? "in-on" : null });
    }), "Attention weights"),
    tokens > most.length ? make("p", { class: "in-quiet", text: `The ${most.length} most read of ${tokens} tokens; the others share ${share(1 - sum(most.map((t) => mean[t])))}.` }) : null,
    make("h4", { text: "Every head" }), grid,
    make("p", { class: "in-quiet", text: "A row a head, a column a token, in the text\u2019s order; stronger is more weight." }));
}

function showSelection(at) {
  const p = at.layer.probabilities, order = ordered(p), sorted = order.map((e) => p[e]);
  const rows = [...at.layer.selections].sort((a, b) => a.k - b.k);
  const mine = at.layer.selections[0];
  return make("div", null,
    columns(sorted, { on: (i) => i < at.walk.k, label: "Shares, largest first, with the cuts of each k", title: (i) => `expert ${order[i]}: ${share(sorted[i])}`, cuts: rows.map((r) => [r.k, `k ${r.k}`]) }),
    make("p", { class: "in-axis", "aria-hidden": "true" }, make("span", { text: "largest share" }), make("span", { text: "smallest" })),
    table(["k", "Mass", "Experts, largest share first"], rows.map((r) => Object.assign([
      r === mine ? `${r.k} (yours)` : String(r.k), r.mass.toFixed(3), r.experts.join(" "),
    ], { mark: r === mine ? "in-on in-wrap" : "in-wrap" })), "What each k selects"),
    make("p", { class: "in-quiet", text: "For this very input. A model that had run at another k from the start would come here with another input, except in layer 0." }));
}

function showMix(at) {
  const works = at.layer.experts, width = 5;
  const added = Array.from({ length: width }, (_, i) => sum(works.map((w) => w.weight * w.output.values[i])));
  const rows = works.map((w) => [`${short(w.weight)} \u00d7 expert ${w.expert}`, ...Array.from({ length: width }, (_, i) => short(w.weight * w.output.values[i]))]);
  rows.push(Object.assign(["Their sum", ...added.map(short)], { mark: "in-sum" }));
  rows.push(Object.assign(["The model\u2019s own", ...Array.from(at.layer.experts_output.values.slice(0, width), short)], { mark: "in-on" }));
  return make("div", null, table(["", ...Array.from({ length: width }, (_, i) => `value ${i}`)], rows, "The sum, value by value"),
    make("p", { class: "in-quiet", text: `The first ${width} of ${at.s.hidden_size} values. Norm of the sum: ${short(at.layer.experts_output.norm)}.` }));
}

const drawing = { temperature: 1, topP: 1 }; // kept while the visitor walks on

function showNext(at) {
  const list = make("div"), note = make("p", { class: "in-quiet", role: "status" });
  const draw = () => {
    const found = nextDistribution(at.walk.logits, drawing.temperature, drawing.topP);
    const shown = Math.min(12, at.walk.top_ids.length);
    list.replaceChildren(table(["Token", "Probability", "", "Chance to be drawn"], Array.from({ length: shown }, (_, i) => [
      quoted(at.walk.top_pieces[i]), share(found.probs[i] || 0), bar(found.probs[i] || 0, found.probs[0], i < found.kept),
      i < found.kept ? share(found.probs[i] / found.mass) : "left out",
    ]), "Most probable next tokens"));
    note.textContent = drawing.temperature === 0 ? "Temperature 0: always the first."
      : `${plural(found.kept, "token")} of ${grouped(at.walk.logits.length)} can be drawn; they hold ${share(found.mass)}.`;
  };
  const slider = (text, key, max, min) => {
    const value = make("b", { "aria-hidden": "true", text: drawing[key].toFixed(2) });
    const input = make("input", { type: "range", min: String(min), max: String(max), step: "0.05", value: String(drawing[key]), "aria-label": text });
    input.addEventListener("input", () => {
      drawing[key] = Number(input.value);
      value.textContent = drawing[key].toFixed(2);
      draw();
    });
    return make("label", null, make("span", null, `${text} `, value), input);
  };
  draw();
  return make("div", null, make("div", { class: "in-sliders" }, slider("Temperature", "temperature", 2, 0), slider("Top-p", "topP", 1, 0.05)), list, note);
}
