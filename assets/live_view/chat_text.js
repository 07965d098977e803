// Shades and picks tokens in the chat's own reply too, without touching its DOM: through the CSS Custom Highlight API
// and the caret under the pointer. Where the browser lacks these, or the text there is not the reply's, nothing happens.

const SHADES = 4; // ::highlight(olmoe-1) to (olmoe-4); a highlight has no continuous strength

function createChatText(onChoose) {
  const able = typeof Highlight === "function" && Boolean(CSS.highlights);
  const names = [...Array.from({ length: SHADES }, (_, i) => `olmoe-${i + 1}`), "olmoe-token"];
  let tokens = [], share = null, chosen = -1, pending = 0, watched = null;

  // The last reply's text nodes with their offsets, and where its text begins in them; null if it is another text.
  const find = () => {
    const replies = document.querySelectorAll('#chat [data-testid="bot"] .message-content');
    const place = replies[replies.length - 1];
    if (!place || !tokens.length) return null;
    const walker = document.createTreeWalker(place, NodeFilter.SHOW_TEXT);
    const nodes = [];
    let text = "";
    while (walker.nextNode()) {
      nodes.push({ node: walker.currentNode, from: text.length });
      text += walker.currentNode.data;
    }
    const said = tokens.map((token) => (token ? token.text : "")).join("");
    const [there, here] = [text.trim(), said.trim()];
    const length = Math.min(there.length, here.length); // while streaming one may be ahead
    if (!length || there.slice(0, length) !== here.slice(0, length)) return null;
    return { nodes, end: text.length, shift: text.indexOf(there) - said.indexOf(here) };
  };

  const range = (found, from, to) => {
    if (from < 0 || to > found.end || from >= to) return null;
    const at = (offset) => found.nodes.findLast((piece) => piece.from <= offset) || found.nodes[0];
    const [start, end] = [at(from), at(to - 1)];
    const made = new Range();
    made.setStart(start.node, from - start.from);
    made.setEnd(end.node, to - end.from);
    return made;
  };

  const chat = new MutationObserver(() => later());
  const watchChat = (wanted) => {
    const place = wanted ? document.getElementById("chat") : null;
    if (place === watched) return;
    chat.disconnect();
    watched = place;
    if (place) chat.observe(place, { childList: true, subtree: true, characterData: true });
  };

  const draw = () => {
    names.forEach((name) => CSS.highlights.delete(name));
    watchChat(share || chosen >= 0);
    const found = watched && find();
    if (!found) return;
    const ranges = names.map(() => []);
    let at = found.shift;
    tokens.forEach((token, i) => {
      const length = token ? token.text.length : 0;
      const value = share ? share(i) : -1;
      const of = value >= 0 || i === chosen ? range(found, Math.max(0, at), Math.min(found.end, at + length)) : null;
      if (of && value >= 0) ranges[Math.min(SHADES - 1, Math.floor(value * SHADES))].push(of);
      if (of && i === chosen) ranges[SHADES].push(of);
      at += length;
    });
    ranges.forEach((list, i) => list.length && CSS.highlights.set(names[i], new Highlight(...list)));
  };
  const later = () => {
    if (!able || pending) return;
    pending = requestAnimationFrame(() => {
      pending = 0;
      draw();
    });
  };

  const caretAt = (x, y) => {
    if (document.caretPositionFromPoint) {
      const caret = document.caretPositionFromPoint(x, y);
      return caret && { node: caret.offsetNode, offset: caret.offset };
    }
    const caret = document.caretRangeFromPoint && document.caretRangeFromPoint(x, y);
    return caret && { node: caret.startContainer, offset: caret.startOffset };
  };
  const click = (event) => {
    if (!event.target.closest || !event.target.closest('#chat [data-testid="bot"] .message-content')) return;
    if (!getSelection().isCollapsed) return; // the visitor selects text
    const found = find();
    const caret = found && caretAt(event.clientX, event.clientY);
    const piece = caret && found.nodes.find(({ node }) => node === caret.node);
    if (!piece) return;
    let at = found.shift;
    for (let i = 0; i < tokens.length; i++) {
      const length = tokens[i] ? tokens[i].text.length : 0;
      const of = length && range(found, Math.max(0, at), Math.min(found.end, at + length));
      // The caret lies between characters; the token is the one whose letters are under the pointer.
      const under = of && piece.from + caret.offset >= at && piece.from + caret.offset <= at + length
        && [...of.getClientRects()].some((box) => event.clientX >= box.left && event.clientX <= box.right
          && event.clientY >= box.top && event.clientY <= box.bottom);
      if (under) return onChoose(i);
      at += length;
    }
  };
  document.addEventListener("click", click);

  return {
    sync(list) {
      tokens = list;
      if (share || chosen >= 0 || watched) later();
    },
    shade(of) {
      share = of;
      later();
    },
    choose(at) {
      chosen = at;
      later();
    },
    stop() {
      document.removeEventListener("click", click);
      share = null;
      chosen = -1;
      if (able) draw();
    },
  };
}
