// Shades and picks tokens in the chat's own reply too, without touching its DOM: through the CSS Custom Highlight API
// and the caret under the pointer. Where the browser lacks these, or the text there is not the reply's, nothing happens.

const SHADES = 4; // ::highlight(olmoe-1) to (olmoe-4); a highlight has no continuous strength

function createChatText(onChoose) {
  const able = typeof Highlight === "function" && Boolean(CSS.highlights);
  const names = [...Array.from({ length: SHADES }, (_, i) => `olmoe-${i + 1}`), "olmoe-token"];
  let tokens = [], share = null, chosen = -1, pending = 0, watched = null;

  // Where the tokens' characters stand in the chat: in its last reply, which may still be growing, or in the earlier
  // one that has just this text; null if there is none.
  const find = () => {
    const replies = [...document.querySelectorAll('#chat [data-testid="bot"] .message-content')].reverse();
    if (!tokens.length) return null;
    for (const [i, reply] of replies.entries()) {
      const found = findIn(reply, i === 0);
      if (found) return found;
    }
    return null;
  };

  // Gradio trims and joins white space, so only the other characters are compared: place[n] is where the n-th of
  // them is.
  const findIn = (reply, growing) => {
    const walker = document.createTreeWalker(reply, NodeFilter.SHOW_TEXT);
    const place = [];
    let there = "";
    while (walker.nextNode()) {
      const node = walker.currentNode;
      for (let offset = 0; offset < node.data.length; offset++) {
        if (/\s/.test(node.data[offset])) continue;
        place.push({ node, offset });
        there += node.data[offset];
      }
    }
    let here = "";
    const spans = tokens.map((token) => {
      const from = here.length;
      here += token ? token.text.replace(/\s+/g, "") : "";
      return { from, to: here.length };
    });
    const length = Math.min(there.length, here.length); // while streaming one may be ahead
    if (!growing && there.length !== here.length) return null;
    return length && there.slice(0, length) === here.slice(0, length) ? { place, spans } : null;
  };

  // The range of a token; null if nothing of it can be seen there.
  const rangeOf = (found, i) => {
    const { from, to } = found.spans[i];
    if (from >= to || to > found.place.length) return null;
    const made = new Range();
    made.setStart(found.place[from].node, found.place[from].offset);
    made.setEnd(found.place[to - 1].node, found.place[to - 1].offset + 1);
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
    tokens.forEach((token, i) => {
      const value = share ? share(i) : -1;
      const of = value >= 0 || i === chosen ? rangeOf(found, i) : null;
      if (of && value >= 0) ranges[Math.min(SHADES - 1, Math.floor(value * SHADES))].push(of);
      if (of && i === chosen) ranges[SHADES].push(of);
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
    const caret = caretAt(event.clientX, event.clientY);
    const found = caret && find();
    if (!found) return;
    // The caret stands between characters; the token is the one whose letters are under the pointer.
    for (let i = 0; i < tokens.length; i++) {
      const range = rangeOf(found, i);
      const under = range && range.comparePoint(caret.node, caret.offset) === 0 && [...range.getClientRects()].some(
        (box) => event.clientX >= box.left && event.clientX <= box.right && event.clientY >= box.top && event.clientY <= box.bottom);
      if (under) return onChoose(i);
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
