// The review page's draft: each answer is saved, what could not be saved is tried again, and no answer of the server takes
// away what was typed or chosen since its request left: the fields stay where they are (hx-preserve), the rest is drawn anew.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const form = () => document.querySelector("form[data-draft]");
  const current = () => document.querySelector("[data-row][aria-current]");
  const isOurs = (path) => /\/(draft|evidence|submit)$/.test(path);
  const say = (text) => document.querySelector("#saved")?.replaceChildren(` · ${text}`);
  const save = () => htmx.trigger(form(), "change");
  // The person's own words and choices; a quote on its way is none.
  const filled = () => form() && JSON.stringify([...new FormData(form())].filter(([name]) => /^(answer|half|note)\b/.test(name)));

  // Active time: seconds in which the page was visible and something was done within the last 30.
  let active = 0, last = Date.now();
  for (const name of ["keydown", "pointermove", "pointerdown", "wheel", "scroll"]) document.addEventListener(name, () => (last = Date.now()), { passive: true, capture: true });
  setInterval(() => {
    if (!document.hidden && Date.now() - last < 30000) active += 1;
    if (form()) form().elements.active_s.value = active;
  }, 1000);

  // --- what left, and what came back ---
  let saved = null; // what the server has
  let waiting = null; // where the person wants to go once it has all
  document.addEventListener("htmx:configRequest", ({ detail }) => {
    // After a press on a button htmx sends the form's own save, too, where that button sends.
    if (form() && detail.elt === form()) detail.path = form().getAttribute("hx-post");
    if (form() && isOurs(detail.path)) detail.left = { active, filled: filled(), row: current()?.id, quote: quoteOf(detail.elt)?.value };
  });
  // A submit carries the whole form: a note's save that waits behind it would come too late. And what is typed after it
  // would be lost with the page: the form rests from the press, also while the submit waits for a save, until its answer.
  document.addEventListener("htmx:confirm", ({ detail: { path, elt } }) => {
    if (form() && path.endsWith("/submit") && elt !== form()) rest(true);
  });
  // A field that the resting form takes the focus from tells of its change; of that the server has heard by the submit.
  const isHeard = () => filled() === saved && !form().dataset.unsaved && !all("[data-quote]").some(({ value }) => value);
  document.addEventListener("htmx:beforeRequest", (event) => {
    const { path, elt } = event.detail.requestConfig;
    if (!form() || !isOurs(path) || path.endsWith("/submit")) return;
    if (form().dataset.resting || (path.endsWith("/draft") && form().contains(elt) && isHeard())) event.preventDefault();
  });
  document.addEventListener("htmx:afterRequest", ({ detail: { requestConfig: { left, path }, xhr } }) => {
    if (!form() || !left) return;
    delete form().dataset.unsaved;
    if (xhr.status >= 200 && xhr.status < 300) active = Math.max(0, active - left.active);
    else if (path.endsWith("/submit")) rest(false);
    if (xhr.status && xhr.status < 500) saved = left.filled; // what it refuses stays refused
    else say((form().dataset.unsaved = "not saved yet, trying again"));
    if (waiting && filled() === saved) waiting = void setTimeout(waiting);
  });
  setInterval(() => form()?.dataset.unsaved && save(), 5000);

  function rest(isResting) {
    if (isResting) say((form().dataset.resting = "sending"));
    else delete form().dataset.resting;
    form().inert = isResting;
  }
  function quoteOf(element) {
    return element?.matches?.("[data-attach]") ? element.closest("[data-row]").querySelector("[data-quote]") : null;
  }

  // --- the panel drawn anew ---
  let place = null;
  document.addEventListener("htmx:beforeSwap", ({ detail }) => {
    if (detail.target?.id !== "rubric") return;
    place = { row: current()?.id, focused: document.activeElement, top: document.querySelector("#rubric .panel-scroll")?.scrollTop };
  });
  document.addEventListener("htmx:afterSwap", ({ detail }) => {
    const left = detail.requestConfig?.left;
    if (detail.target?.id !== "rubric" || !form() || !left) return;
    document.querySelector("#rubric .panel-scroll").scrollTop = place.top;
    const quote = quoteOf(detail.requestConfig.elt);
    if (quote && quote.value === left.quote) quote.value = "";
    const isBusy = filled() !== left.filled || place.row !== left.row;
    // A refused submit names where to go on, unless the person has gone on already.
    const goOn = !isBusy && document.querySelector("#rubric [data-go-on]");
    const row = goOn || document.getElementById(place.row);
    if (row) {
      all("[data-row][aria-current]").forEach((other) => other.removeAttribute("aria-current"));
      row.setAttribute("aria-current", "true");
    }
    if (goOn) {
      goOn.scrollIntoView({ block: "nearest" });
      (goOn.dataset.goOn === "note" ? goOn.querySelector("textarea") : goOn).focus({ preventScroll: true });
    } else if (place.focused !== document.activeElement && place.focused.isConnected) place.focused.focus({ preventScroll: true });
    // A save that waited has gone with the old form.
    if (filled() !== left.filled || all("[data-quote]").some(({ value }) => value)) save();
  });

  // --- leaving the page ---
  // The next page would be drawn from what the server has.
  function first(event, go) {
    if (event.defaultPrevented || !form() || form().dataset.resting || filled() === saved) return false;
    event.preventDefault();
    waiting = go;
    save();
    return true;
  }
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href]");
    if (!link || link.target || link.hasAttribute("download") || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (link.pathname !== location.pathname || link.search !== location.search) first(event, () => link.click());
  });
  document.addEventListener("submit", (event) => {
    const { target, submitter } = event;
    if (event.defaultPrevented || !form()) return;
    if (target !== form() && first(event, () => target.requestSubmit(submitter))) return;
    setTimeout(rest, 0, true); // once the browser has read the form
  });
  addEventListener("pageshow", ({ persisted }) => persisted && form() && rest(false));

  // With the session gone, what was typed waits in this tab until the person is back.
  const key = () => `draft:${form()?.dataset.reviewer}:${location.pathname}`;
  document.addEventListener("htmx:beforeSwap", ({ detail }) => {
    const url = new URL(detail.xhr.responseURL || location.href);
    if (!url.pathname.startsWith("/login") || !form()) return;
    detail.shouldSwap = false;
    sessionStorage.setItem(key(), new URLSearchParams(new FormData(form())).toString());
    url.searchParams.set("next", location.pathname + location.search);
    location.assign(url);
  });
  document.addEventListener("DOMContentLoaded", () => {
    saved = filled();
    const kept = form() && sessionStorage.getItem(key());
    if (!kept) return;
    sessionStorage.removeItem(key());
    for (const [name, value] of new URLSearchParams(kept)) {
      for (const field of all(`[name="${CSS.escape(name)}"]`, form())) {
        if (field.type === "radio" || field.type === "checkbox") field.checked ||= field.value === value;
        else if (field.type !== "hidden") field.value = value;
      }
    }
    save();
  });
})();
