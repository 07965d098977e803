// Shading and choosing tokens in the chat's own reply, without touching its DOM. Where the browser lacks the means, or
// the text there is not the reply's, nothing happens.
function createChatText() {
  return { sync() {}, shade() {}, choose() {}, stop() {} };
}
