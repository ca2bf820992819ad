// Keys press real buttons: the control with that key in its data-key, in the current row ([data-row]) first, then
// outside the rows. Also: which row is current.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const current = () => document.querySelector("[data-row][aria-current]") || document.querySelector("[data-row]");
  const typed = "textarea, select, input:not([type=radio], [type=checkbox])";

  function pick(row, moveFocus) {
    all("[data-row][aria-current]").forEach((other) => other.removeAttribute("aria-current"));
    row.setAttribute("aria-current", "true");
    if (moveFocus) row.focus({ preventScroll: true });
    row.scrollIntoView({ block: "nearest" });
  }
  function step(by) {
    const rows = all("[data-row]");
    const to = rows[Math.min(rows.length - 1, Math.max(0, rows.indexOf(current()) + by))];
    if (to) pick(to, true);
  }
  function control(key) {
    const has = (element) => element.dataset.key.split(" ").includes(key);
    const row = current();
    return (row && all("[data-key]", row).find(has)) || all("[data-key]").find((element) => has(element) && !element.closest("[data-row]"));
  }
  function press(element) {
    if (element.matches(typed)) element.focus(); // at once: the next key is its first letter
    else if (element.closest(".htmx-added")) return void setTimeout(press, 30, element); // drawn, but not yet wired up by htmx
    else element.click();
    if (element.dataset.step && element.matches("input")) step(Number(element.dataset.step));
  }

  let goes = 0; // when "g" was pressed
  let one = { at: 0 }; // the last "1": with a "0" soon after it is a ten
  document.addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (event.isComposing || event.altKey) return;
    const isSend = key === "Enter" && (event.ctrlKey || event.metaKey);
    if (target.matches(typed) && !isSend) return void (key === "Escape" && target.blur());
    if ((event.ctrlKey || event.metaKey) && !isSend) return;
    if (document.querySelector(":popover-open, dialog[open], form[data-resting]")) return;
    if (key === "Enter" && !isSend && target.matches("button, a, summary")) return;
    if (Date.now() - goes < 1500) {
      goes = 0;
      const link = document.querySelector(`[data-go="${CSS.escape(key)}"]`);
      if (link) return void (event.preventDefault(), link.click());
    }
    if (key === "g") goes = Date.now();
    const isTen = key === "0" && one.row === current() && Date.now() - one.at < 700;
    const element = (isTen && control("10")) || control(isSend ? "Ctrl+Enter" : key);
    one = { row: current(), at: key === "1" ? Date.now() : 0 };
    if (!element) return;
    event.preventDefault();
    press(element);
  });
  document.addEventListener("click", ({ target }) => {
    const mover = target.closest("button[data-step]");
    if (mover) step(Number(mover.dataset.step));
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest("[data-pick]");
    if (!link || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    pick(link.closest("[data-row]"), true);
  });
  // A row unfolds when it is picked. With the mouse that waits for the click: unfolded between press and release, the row
  // would move away from under the pointer, and the click would be lost.
  let isPressed = false;
  const enter = ({ target }) => {
    const row = target.closest("[data-row]");
    if (row && !isPressed && !row.hasAttribute("aria-current")) pick(row, false);
  };
  document.addEventListener("mousedown", () => (isPressed = true), true);
  for (const name of ["mouseup", "keydown", "dragend"]) document.addEventListener(name, () => (isPressed = false), true);
  document.addEventListener("focusin", enter);
  document.addEventListener("click", enter);
  // A number starts whole, also when it is chosen once more; "." adds the half.
  document.addEventListener("click", ({ target }) => {
    const half = target.type === "radio" && target.closest("[data-row]")?.querySelector("[data-half]:checked");
    if (half) half.click();
  }, true);
  // Selected text becomes the quote that "Attach" sends.
  let selected = "";
  function read() {
    const selection = getSelection();
    // A click in the panel takes the selection away too; what was selected is then still meant.
    if (document.querySelector("#content")?.contains(selection.anchorNode)) selected = selection.isCollapsed ? "" : selection.toString().trim();
  }
  document.addEventListener("selectionchange", read);
  document.addEventListener("click", ({ target }) => {
    const quote = target.closest("[data-attach]")?.closest("[data-row]").querySelector("[data-quote]");
    if (!quote) return;
    read(); // a key may come before the news of the selection
    quote.value = selected;
    selected = "";
    getSelection().removeAllRanges();
  }, true);
})();
