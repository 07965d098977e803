// The tokens as text: a listbox each for the prompt and the reply. Texts enter through textContent only.

function createStrip(list, onChoose) {
  const nodes = [];
  let focus = 0; // roving tabindex: one option is reachable with Tab, arrows do the rest

  const fill = (node, token) => {
    node.textContent = token ? visible(token.text, true) : "\u2026";
    node.classList.toggle("lv-part", !token || token.text === "");
    node.dataset.missing = token ? "" : "yes";
    if (token && token.text === "") node.setAttribute("aria-label", "part of a character");
    else if (token && !token.text.trim()) node.setAttribute("aria-label", token.text.includes("\n") ? "line break" : "space");
    else node.removeAttribute("aria-label");
  };

  const move = (to) => {
    if (!nodes.length) return;
    nodes[focus] && (nodes[focus].tabIndex = -1);
    focus = Math.max(0, Math.min(nodes.length - 1, to));
    nodes[focus].tabIndex = 0;
  };

  const indexOf = (node) => (node && node.closest ? nodes.indexOf(node.closest("[role=option]")) : -1);

  list.addEventListener("click", (event) => {
    const at = indexOf(event.target);
    if (at < 0) return;
    move(at);
    onChoose(at);
  });
  list.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -nodes.length, End: nodes.length }[event.key];
    if (step) {
      move(focus + step);
      nodes[focus].focus({ preventScroll: false });
    } else if (event.key === "Enter" || event.key === " ") onChoose(focus);
    else if (event.key === "Escape") onChoose(-1);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  return {
    // Brings the list up to `tokens`, from index `first` on; what is there already stays as it is.
    sync(tokens, first) {
      const following = list.scrollTop + list.clientHeight >= list.scrollHeight - 8;
      const wanted = Math.max(0, tokens.length - first);
      while (nodes.length > wanted) nodes.pop().remove();
      const added = document.createDocumentFragment();
      for (let i = 0; i < wanted; i++) {
        if (!nodes[i]) {
          const node = document.createElement("span");
          node.setAttribute("role", "option");
          node.setAttribute("aria-selected", "false");
          node.tabIndex = -1;
          fill(node, tokens[first + i]);
          nodes.push(node);
          added.append(node);
        } else if (nodes[i].dataset.missing && tokens[first + i]) fill(nodes[i], tokens[first + i]);
      }
      list.append(added);
      move(Math.min(focus, nodes.length - 1));
      if (following) list.scrollTop = list.scrollHeight;
    },
    clear() {
      nodes.length = 0;
      focus = 0;
      list.replaceChildren();
    },
    choose(at) {
      nodes.forEach((node, i) => {
        if ((node.getAttribute("aria-selected") === "true") !== (i === at)) node.setAttribute("aria-selected", String(i === at));
      });
      if (at >= 0) move(at);
    },
    // share(i) in [0, 1], or -1 for none; null: no shading at all.
    shade(share) {
      nodes.forEach((node, i) => {
        const value = share ? share(i) : -1;
        const level = value < 0 ? "" : `${Math.round(18 + 34 * value)}%`;
        if (node.dataset.shade !== level) {
          node.dataset.shade = level;
          node.style.setProperty("--lv-shade", level || "0%");
        }
      });
    },
  };
}
