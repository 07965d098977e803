// While a reply waits, gradio writes "queue: 2/3 | 4.1s" beside this element; here it is said in words, once a change.
const place = element.closest("#queue-place"), said = element.querySelector("p");
const tell = () => {
  const found = place.querySelector(".progress-text")?.textContent.match(/queue: (\d+)\//);
  const ahead = found ? Number(found[1]) - 1 : 0;
  const words = !found ? "" : ahead ? `Waiting for your turn: ${ahead} ahead of you.` : "Waiting for your turn: you are next.";
  if (said.textContent !== words) said.textContent = words;
};
new MutationObserver(tell).observe(place, { childList: true, characterData: true, subtree: true });
