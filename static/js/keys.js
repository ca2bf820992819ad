// Keys press real buttons: the control with that key in its data-key, in the current row ([data-row]) first, then
// outside the rows. Also: which row is current, the active time, and a draft that survives a lost connection or session.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const form = () => document.querySelector("form[data-draft]");
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
    if (element.closest(".htmx-added")) return void setTimeout(press, 30, element); // drawn, but not yet wired up by htmx
    if (element.matches(typed)) element.focus();
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
    if (document.querySelector(":popover-open, dialog[open]")) return;
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
  // A refused submit names where to go on; htmx would give the focus back to where it was.
  document.addEventListener("htmx:afterSwap", ({ detail }) => {
    if (detail.target?.id === "rubric") document.querySelector("#rubric [autofocus]")?.focus();
  });
  // A number starts whole, also when it is chosen once more; "." adds the half.
  document.addEventListener("click", ({ target }) => {
    const half = target.type === "radio" && target.closest("[data-row]")?.querySelector("[data-half]:checked");
    if (half) half.click();
  }, true);
  // Selected text becomes the quote that "Attach" sends.
  let selected = "";
  document.addEventListener("selectionchange", () => {
    const selection = getSelection();
    // A click in the panel takes the selection away too; what was selected is then still meant.
    if (document.querySelector("#content")?.contains(selection.anchorNode)) selected = selection.isCollapsed ? "" : selection.toString().trim();
  });
  document.addEventListener("click", ({ target }) => {
    const quote = target.closest("[data-attach]")?.closest("[data-row]").querySelector("[data-quote]");
    if (!quote) return;
    quote.value = selected;
    selected = "";
    getSelection().removeAllRanges();
  }, true);

  // Active time: seconds in which the page was visible and something was done within the last 30.
  let active = 0, sent = 0, last = Date.now();
  for (const name of ["keydown", "pointermove", "pointerdown", "wheel", "scroll"]) document.addEventListener(name, () => (last = Date.now()), { passive: true, capture: true });
  setInterval(() => {
    if (!document.hidden && Date.now() - last < 30000) active += 1;
    if (form()) form().elements.active_s.value = active;
  }, 1000);

  // What could not be saved is tried again; with the session gone it waits in this tab until the person is back.
  const place = () => `draft:${form()?.dataset.reviewer}:${location.pathname}`;
  const say = (text) => document.querySelector("#saved")?.replaceChildren(` · ${text}`);
  document.addEventListener("htmx:configRequest", () => (sent = active));
  // A submit carries the whole form: a note's save that waited behind it would come too late.
  document.addEventListener("htmx:beforeRequest", (event) => {
    const { path } = event.detail.requestConfig;
    if (!form()) return;
    if (path.endsWith("/submit")) form().dataset.submitting = "yes";
    else if (form().dataset.submitting && path.endsWith("/draft")) event.preventDefault();
  });
  document.addEventListener("htmx:afterRequest", ({ detail }) => {
    if (!form()) return;
    delete form().dataset.unsaved;
    if (!detail.successful) delete form().dataset.submitting;
    if (detail.successful) active = Math.max(0, active - sent);
    else if (!detail.xhr.status || detail.xhr.status >= 500) say((form().dataset.unsaved = "not saved yet, trying again"));
  });
  setInterval(() => form()?.dataset.unsaved && htmx.trigger(form(), "change"), 5000);
  document.addEventListener("htmx:beforeSwap", ({ detail }) => {
    const url = new URL(detail.xhr.responseURL || location.href);
    if (!url.pathname.startsWith("/login") || !form()) return;
    detail.shouldSwap = false;
    sessionStorage.setItem(place(), new URLSearchParams(new FormData(form())).toString());
    url.searchParams.set("next", location.pathname + location.search);
    location.assign(url);
  });
  document.addEventListener("DOMContentLoaded", () => {
    const kept = form() && sessionStorage.getItem(place());
    if (!kept) return;
    sessionStorage.removeItem(place());
    for (const [name, value] of new URLSearchParams(kept)) {
      for (const field of all(`[name="${CSS.escape(name)}"]`, form())) {
        if (field.type === "radio" || field.type === "checkbox") field.checked ||= field.value === value;
        else if (field.type !== "hidden") field.value = value;
      }
    }
    htmx.trigger(form(), "change");
  });
})();
