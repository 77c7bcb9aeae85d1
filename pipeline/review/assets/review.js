// Keys, zoom, heat map and page turns without a flash. Everything works without this file, too: pages are plain forms
// and links. A key presses the button or link that names it in data-key.
"use strict";

const $ = (selector, within = document) => within.querySelector(selector);
const remembered = {
  get(name, otherwise) { try { return localStorage.getItem(`assay-${name}`) ?? otherwise; } catch { return otherwise; } },
  set(name, value) { try { localStorage.setItem(`assay-${name}`, value); } catch { /* private windows may refuse */ } },
};
let busy = false;
const waiting = []; // keys that were pressed while a page was on its way; votes never wait: they are for what is seen

// ---- pages: fetched, and put in the place of the one before

async function turn(url, options = {}, keep = false) {
  if (busy) return;
  busy = true;
  document.body.setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(url, { ...options, headers: { accept: "text/html" } });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (!answer.ok || !$("#main", page)) {
      alarm($("#sentence", page)?.textContent ?? `The server said ${answer.status}.`);
      return;
    }
    if (!keep && answer.url !== location.href) history.pushState(null, "", answer.url);
    put(page);
  } catch {
    alarm("The server does not answer: your last vote may not have been kept. Start it again (make review), then go on.");
  } finally {
    busy = false;
    document.body.removeAttribute("aria-busy");
    if (waiting.length) press(waiting.shift());
  }
}

function put(page) {
  const active = document.activeElement;
  const key = active && active.tagName !== "INPUT" && active !== document.body ? active.dataset.key : null;
  const wasIn = $("#main").contains(active) || $("#bar").contains(active);
  const kind = $("#main").dataset.page;
  document.title = page.title;
  for (const part of ["#bar", "#main"]) $(part).replaceWith(document.adoptNode($(part, page)));
  $("#alert").hidden = true;
  mount();
  const again = key ? $(`[data-key="${CSS.escape(key)}"]`) : null;
  if (again && !again.disabled) again.focus();
  else if (wasIn) $("#main").focus({ preventScroll: true });
  if (kind !== $("#main").dataset.page || kind === "grid") scrollTo(0, 0);
  $("#spoken").textContent = document.title;
}

function alarm(sentence) {
  const place = $("#alert");
  place.textContent = sentence;
  place.hidden = false;
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.matches("form[data-swap]")) return;
  event.preventDefault();
  const fields = new URLSearchParams(new FormData(form, event.submitter));
  turn(form.action, { method: "POST", body: fields });
});

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-swap]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  turn(link.href);
});

addEventListener("popstate", () => turn(location.href, {}, true));

// ---- keys

document.addEventListener("keydown", (event) => {
  if (event.isComposing || event.altKey) return;
  const undo = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z" && !event.shiftKey;
  if ((event.ctrlKey || event.metaKey) && !undo) return;
  const typing = event.target.closest("input:not([type=range]), textarea, select");
  if (typing) {
    if (event.key === "Escape") typing.blur();
    if (event.key === "Enter" && typing.name === "defect") {
      event.preventDefault();
      $("button[value=reject]").click();
    }
    return;
  }
  if ($("dialog[open]")) return;
  const slider = event.target.matches("input[type=range]") && event.key.startsWith("Arrow");
  if (slider) return;
  const key = undo ? "z" : event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (!named(key)) return;
  event.preventDefault();
  const once = named(key).matches("button[name=vote], [data-key=z]"); // a key that is held down decides once
  if (event.repeat && (once || busy)) return;
  if (!busy) press(key);
  else if (!named(key).matches("button[name=vote]") && waiting.length < 9) waiting.push(key);
});

function named(key) {
  return [...document.querySelectorAll("[data-key]")].find((one) => one.dataset.key.split(" ").includes(key));
}

function press(key) {
  const found = named(key);
  if (!found || found.disabled) return;
  if (found.tagName === "INPUT") { found.focus(); found.select(); } else found.click();
}

document.addEventListener("click", (event) => {
  const does = event.target.closest("[data-do]")?.dataset.do;
  if (does === "help") $("#help").showModal();
  else if (does === "in") view.by(1.5);
  else if (does === "out") view.by(1 / 1.5);
  else if (does === "fit") view.fit();
  else if (does === "heat") heat.toggle();
  else if (does === "fainter") heat.set(heat.opacity - 10);
  else if (does === "stronger") heat.set(heat.opacity + 10);
});

// ---- zoom: 1 shows the whole picture, wherever it is dragged

const view = {
  scale: 1, x: 0, y: 0, pointers: new Map(),
  show() {
    const stage = $("#stage");
    if (!stage) return;
    const { width, height } = stage.getBoundingClientRect();
    this.scale = Math.min(40, Math.max(1, this.scale));
    this.x = Math.min(0, Math.max(width * (1 - this.scale), this.x));
    this.y = Math.min(0, Math.max(height * (1 - this.scale), this.y));
    const layers = $("#layers");
    layers.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
    const picture = $("#picture");
    const fitted = Math.min(width / picture.getAttribute("width"), height / picture.getAttribute("height"));
    layers.classList.toggle("close", this.scale > 1 && this.scale * fitted > 3);
    $("#zoom").textContent = `${Math.round(100 * this.scale)}%`;
  },
  fit() { Object.assign(this, { scale: 1, x: 0, y: 0 }); this.show(); },
  by(factor, x, y) {
    const box = $("#stage").getBoundingClientRect();
    x ??= box.width / 2;
    y ??= box.height / 2;
    const scale = Math.min(40, Math.max(1, this.scale * factor));
    this.x = x - (x - this.x) * (scale / this.scale);
    this.y = y - (y - this.y) * (scale / this.scale);
    this.scale = scale;
    this.show();
  },
  mount() {
    const stage = $("#stage");
    if (!stage) return;
    this.pointers.clear();
    this.fit();
    const at = (event) => {
      const box = stage.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.by(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0018)), ...at(event));
    }, { passive: false });
    stage.addEventListener("dblclick", (event) => (this.scale > 1 ? this.fit() : this.by(4, ...at(event))));
    stage.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      stage.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, at(event));
      stage.classList.add("held");
    });
    stage.addEventListener("pointermove", (event) => {
      const before = this.pointers.get(event.pointerId);
      if (!before) return;
      const now = at(event);
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
      this.pointers.set(event.pointerId, now);
      if (other) { // two fingers
        const far = (one) => Math.hypot(one[0] - other[0], one[1] - other[1]) || 1;
        this.by(far(now) / far(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
      }
      const share = other ? 0.5 : 1;
      this.x += (now[0] - before[0]) * share;
      this.y += (now[1] - before[1]) * share;
      this.show();
    });
    for (const end of ["pointerup", "pointercancel"]) {
      stage.addEventListener(end, (event) => {
        this.pointers.delete(event.pointerId);
        if (!this.pointers.size) stage.classList.remove("held");
      });
    }
  },
};
addEventListener("resize", () => view.show());

// ---- heat map

const heat = {
  opacity: Number(remembered.get("opacity", 55)), on: remembered.get("heat", "on") === "on",
  show() {
    const image = $("#heat");
    if (!image) return;
    const there = Boolean(image.getAttribute("src"));
    image.hidden = !there || !this.on;
    image.style.opacity = this.opacity / 100;
    $("#opacity").value = this.opacity;
    $("#heat-on").setAttribute("aria-pressed", String(this.on));
  },
  set(opacity) {
    this.opacity = Math.min(100, Math.max(0, opacity));
    this.on = true;
    remembered.set("opacity", this.opacity);
    remembered.set("heat", "on");
    this.show();
  },
  toggle() {
    this.on = !this.on;
    remembered.set("heat", this.on ? "on" : "off");
    this.show();
  },
  ready(model) {
    const [image, note] = [$("#heat"), $("#model")];
    if (!image) return;
    note.dataset.state = model.state;
    if (model.state === "failed") {
      image.removeAttribute("src");
      note.textContent = `No heat map: ${model.why}`;
      note.hidden = false;
      this.show();
    } else if (model.state === "ready" && !image.getAttribute("src")) {
      image.src = image.dataset.src;
      this.wait();
      this.show();
    }
  },
  wait() {
    const note = $("#model");
    note.textContent = "The heat map is being made…";
    note.hidden = $("#heat").complete;
  },
  mount() {
    const image = $("#heat");
    image?.addEventListener("load", () => {
      if (image.naturalWidth <= 1) { look(); return; } // there is none: why not
      $("#model").hidden = true;
      ahead(true);
    });
    if (image?.getAttribute("src")) this.wait();
    $("#opacity")?.addEventListener("input", (event) => this.set(Number(event.target.value)));
    image?.addEventListener("error", () => { image.removeAttribute("src"); this.show(); });
    this.show();
  },
};

// ---- what others do meanwhile

async function look() {
  const place = $("[data-now]");
  if (!place || document.hidden || busy) return;
  const main = $("#main");
  const key = main.dataset.keyOf;
  try {
    const answer = await fetch(place.dataset.now + (key ? `?key=${key}` : ""));
    if (!answer.ok || $("#main") !== main || busy) return;
    const now = await answer.json();
    if ($("#main") !== main || busy) return;
    const shown = { ...now.progress.counts, decided: now.progress.decided };
    for (const one of document.querySelectorAll("[data-count]")) one.textContent = shown[one.dataset.count];
    for (const bar of now.progress.bars) {
      const drawn = $(`[data-bar="${bar.state}"]`);
      drawn.setAttribute("x", bar.x);
      drawn.setAttribute("width", bar.width);
    }
    $(".track").setAttribute("aria-valuenow", now.progress.decided);
    heat.ready(now.model);
    const list = $("#votes");
    if (list && key) {
      list.replaceChildren(...now.votes.map((vote) => {
        const item = document.createElement("li");
        item.className = vote.vote;
        item.textContent = `${vote.who}: ${vote.vote}${vote.defect ? ` (${vote.defect})` : ""}`;
        return item;
      }));
    }
    if (now.warning && !main.textContent.includes(now.warning)) alarm(now.warning);
  } catch { /* said when something is decided */ }
}

(async () => {
  for (;;) {
    const waits = $("#model")?.dataset.state === "loading";
    await new Promise((done) => setTimeout(done, waits ? 700 : 2000));
    await look();
  }
})();

function mount() {
  view.mount();
  heat.mount();
  $("input[name=who]")?.select(); // typing replaces the name that is offered
  setTimeout(ahead, 150, false);
}

// what comes next is fetched while this one is looked at
function ahead(heated) {
  const next = $("#main").dataset.ahead;
  if (next) new Image().src = `${next}/${heated ? "heat" : "whole"}.png`;
}
mount();
