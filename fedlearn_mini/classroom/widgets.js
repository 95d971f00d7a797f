// The browser's side of a playground: what ipywidgets does not do for people who use keys, ears, a zoom or a projector.
// It draws the picture and the sentence; around it, it names the sliders and keeps their keys from JupyterLab.

const LARGEST = 1.7; // how many times its own width a picture may grow in a wide cell

function figure(model, el) {
  const box = document.createElement("figure"), image = document.createElement("img");
  const busy = document.createElement("span"), said = document.createElement("p");
  box.style.cssText = "margin:0;position:relative";
  image.style.cssText = "display:block;max-width:100%";
  busy.style.cssText = "position:absolute;top:0;right:0;padding:0 .5em;background:#fff;color:#333;border:1px solid #767676";
  busy.textContent = "computing …";
  busy.hidden = true;
  said.style.cssText = "line-height:1.4;margin:.3em 0";
  said.setAttribute("role", "status"); // one node, whose text changes: a screen reader reads each new sentence
  box.append(image, busy, said);
  el.append(box);
  return { box, image, busy, said };
}

function follow(model, { box, image, busy, said }) {
  let timer = 0;
  const on = (name, act) => (model.on(`change:${name}`, act), act());
  on("value", () => {
    const old = image.src;
    image.onload = () => old && URL.revokeObjectURL(old);
    image.src = URL.createObjectURL(new Blob([model.get("value")], { type: "image/png" }));
  });
  on("alt", () => (image.alt = model.get("alt")));
  on("said", () => said.textContent !== model.get("said") && (said.textContent = model.get("said")));
  on("busy", () => {
    clearTimeout(timer);
    if (model.get("busy")) timer = setTimeout(() => (busy.hidden = false), 300);
    else busy.hidden = true;
    box.setAttribute("aria-busy", model.get("busy"));
  });
}

function grow(model, el, image) {
  const fit = () => {
    const width = Math.floor(Math.min(el.clientWidth, LARGEST * model.get("width")));
    if (width < 50) return; // hidden
    image.style.width = `${width}px`;
    model.set("pixels", Math.round(width * devicePixelRatio));
    model.save_changes();
  };
  const observer = new ResizeObserver(fit);
  observer.observe(el);
  return observer;
}

function darken(image) {
  const look = () => {
    const dark = document.body.dataset.jpThemeLight === "false";
    image.style.filter = dark ? "invert(0.93) hue-rotate(180deg)" : ""; // light on dark, and every hue stays
  };
  const observer = new MutationObserver(look);
  observer.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
  look();
  return observer;
}

function name(slider) {
  const label = slider.querySelector(".widget-label")?.textContent, shown = slider.querySelector(".widget-readout");
  const handle = slider.querySelector(".noUi-handle");
  if (!handle || !shown) return;
  const say = () => {
    const text = shown.textContent; // 0.05, where the handle says -0.05000000000000002
    if (handle.getAttribute("aria-valuetext") !== text) handle.setAttribute("aria-valuetext", text);
  };
  handle.setAttribute("aria-label", label);
  shown.setAttribute("aria-label", `${label}, type a value`);
  new MutationObserver(say).observe(handle, { attributes: true, attributeFilter: ["aria-valuetext"] });
  new MutationObserver(say).observe(shown, { childList: true, characterData: true, subtree: true });
  say();
}

function around(el, label) {
  const panel = el.closest(".fedlearn-panel");
  if (!panel) return requestAnimationFrame(() => around(el, label));
  panel.setAttribute("role", "group");
  panel.setAttribute("aria-label", label);
  panel.addEventListener("keydown", (event) => {
    // x would cut the cell, an arrow leave a drop-down; Ctrl, Cmd, Alt and Escape are still JupyterLab's
    if (!event.ctrlKey && !event.metaKey && !event.altKey && event.key !== "Escape") event.stopPropagation();
  });
  panel.querySelectorAll(".widget-slider").forEach(name);
}

function render({ model, el }) {
  const parts = figure(model, el);
  follow(model, parts);
  const observers = [grow(model, el, parts.image), darken(parts.image)];
  around(el, "playground");
  return () => observers.forEach((one) => one.disconnect());
}

export default { render };
