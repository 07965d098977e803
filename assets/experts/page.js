// An expert's page: what it worked on in the visitor's text, over the sample, and in the published counts.

const share = (value) => `${(100 * value).toFixed(value > 0 && value < 0.0995 ? 1 : 0)} %`;

// [name, share, help] as bars with the uniform line.
function bars(rows, uniform) {
  const place = make("div", "ex-bars");
  for (const [name, value, help] of rows) {
    const bar = make("div", "ex-bar");
    bar.style.setProperty("--part", String(value));
    bar.style.setProperty("--uniform", String(uniform));
    bar.append(make("i"), make("u"));
    const label = make("span", "", name);
    label.title = help;
    place.append(label, bar, make("span", "", share(value)));
  }
  return place;
}

// [text, figure, help] as boxes.
function tokenBoxes(tokens) {
  const place = make("div", "ex-tokens");
  for (const [text, figure, help] of tokens) {
    const box = make("span", "", visible(text));
    box.append(make("b", "", figure));
    box.title = help;
    place.append(box);
  }
  return place;
}

// The tokens of a survey that an expert worked on, most frequent first: [text, times, of so many].
function workedOn(survey, layer, expert) {
  const layers = survey.counts.length, k = survey.selected.length / survey.pieces.length / layers;
  const found = new Map();
  survey.pieces.forEach((piece, t) => {
    const entry = found.get(piece) || [piece, 0, 0];
    const at = (t * layers + layer) * k;
    entry[2] += 1;
    if (survey.selected.subarray(at, at + k).includes(expert)) entry[1] += 1;
    found.set(piece, entry);
  });
  return [...found.values()].filter((e) => e[1]).sort((a, b) => b[1] - a[1] || b[1] / b[2] - a[1] / a[2]);
}

function partners(survey, layer, expert, count) {
  const experts = survey.counts[0].length, start = (layer * experts + expert) * experts;
  const own = survey.counts[layer][expert];
  return [...survey.pairs.subarray(start, start + experts)]
    .map((together, other) => [other, together / own]).filter(([other, value]) => other !== expert && value > 0)
    .sort((a, b) => b[1] - a[1]).slice(0, count);
}

function drawExpert(place, cell, survey, study, atlas, model) {
  const { layer, expert } = cell, nodes = [];
  if (survey) {
    const n = survey.pieces.length, count = survey.counts[layer][expert];
    nodes.push(make("h3", "", `In ${survey.name}`));
    nodes.push(make("p", "", count ? `${count} of ${n} tokens, ${share(count / n)} (uniform ${uniformText(survey.k, survey.counts[0].length)}).`
      : `It worked on none of the ${n} tokens.`));
    if (count) {
      nodes.push(tokenBoxes(workedOn(survey, layer, expert).slice(0, 14).map(([text, times, all]) => [text, `${times}/${all}`,
        `${times} of the ${all} times this token stands in the text`])));
      const joined = partners(survey, layer, expert, 5);
      nodes.push(make("p", "ex-quiet", `Most often together with ${joined.map(([other, value]) => `${other} (${share(value)})`).join(", ")}.`));
    }
  }
  if (study) {
    nodes.push(make("h3", "", `Over the sample: ${model}`));
    for (const group of study.shares) {
      nodes.push(make("p", "ex-quiet", { domain: "by domain", position: "by place in the text", kind: "by kind of sentence",
        vocabulary: "by kind of word, code left out" }[group.what]));
      const layers = study.counts.length, experts = study.counts[0].length;
      const rows = group.groups.map((name, g) => [name, group.share[(g * layers + layer) * experts + expert], `${group.tokens[g]} tokens`])
        .filter((_, g) => group.tokens[g]);
      nodes.push(bars(rows, study.uniform));
    }
    nodes.push(make("p", "ex-quiet", `N(E, g) / N(g) of ${study.tokens} tokens; the line is uniform, k / E = ${uniformText(study.k, study.counts[0].length)}.`));
    const { best, share: loyal, each, pieces, counts } = study.loyal;
    const start = (layer * study.counts[0].length + expert) * each;
    nodes.push(make("p", "ex-quiet", "most loyal tokens, N(x → E) / N(x)"));
    nodes.push(tokenBoxes([...best.subarray(start, start + each)].map((x, i) => [pieces[x], share(loyal[start + i]),
      `stands ${counts[x]} times in the sample`])));
  } else nodes.push(make("p", "ex-quiet", "Measure specialisation to have its domains and most loyal tokens over the sample."));
  const at = atlas.layers.indexOf(layer);
  if (at >= 0 && expert < 64) {
    nodes.push(make("h3", "", "Published: OLMoE-1B-7B-0924, the expert of the same number"));
    if (model !== atlas.model) nodes.push(make("p", "ex-quiet", `Another model than ${model}: what is said here is not about the expert loaded.`));
    nodes.push(bars(Object.entries(atlas.domains).map(([name, d]) => [name, d.share[at][expert], `${d.tokens} tokens`]), atlas.top_k / 64));
    const tokens = atlas.top_tokens.layers[layer][expert] || [];
    nodes.push(tokenBoxes(tokens.map(([text, value, times]) => [text, share(value), `stands ${times} times`])));
    nodes.push(make("p", "ex-quiet", "Muennighoff et al. 2024, arXiv 2409.02060 (Apache-2.0); shares computed from the published counts. The line is uniform, 12.5 %."));
  } else nodes.push(make("p", "ex-quiet", `Counts of OLMoE-1B-7B-0924 are published for layers ${atlas.layers.join(", ")} only.`));
  place.replaceChildren(...nodes);
}
