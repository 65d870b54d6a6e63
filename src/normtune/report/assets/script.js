"use strict";
(() => {
  const root = document.documentElement, tip = document.getElementById("tip");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const kept = (value) => {
    try { return value ? localStorage.setItem("normtune-theme", value) : localStorage.getItem("normtune-theme"); }
    catch { return null; } // a page from disk may have no storage
  };
  if (kept()) root.dataset.theme = kept();
  document.getElementById("theme").addEventListener("click", () => {
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    kept(root.dataset.theme);
  });

  const place = (x, y) => {
    const box = tip.getBoundingClientRect(), gap = 14;
    const left = Math.min(x + gap, innerWidth - box.width - 6);
    const top = y + gap + box.height > innerHeight ? y - gap - box.height : y + gap;
    tip.style.transform = `translate(${Math.max(6, left)}px, ${Math.max(6, top)}px)`;
  };
  let shown = null;
  const show = (target, x, y) => {
    shown = target;
    tip.textContent = target.dataset.tip;
    tip.hidden = false;
    place(x, y);
  };
  const hide = () => { tip.hidden = true; };
  const tipped = (event) => event.target instanceof Element ? event.target.closest("[data-tip]") : null;
  document.addEventListener("pointermove", (event) => {
    const target = tipped(event);
    if (target) show(target, event.clientX, event.clientY); else hide();
  });
  document.addEventListener("pointerdown", (event) => {
    const target = tipped(event);
    if (target) show(target, event.clientX, event.clientY);
  });
  document.addEventListener("focusin", (event) => {
    const target = tipped(event);
    if (!target) return;
    const box = target.getBoundingClientRect();
    show(target, box.left, box.bottom - 8);
  });
  document.addEventListener("focusout", hide);
  document.addEventListener("scroll", () => {
    if (shown && !shown.matches(":hover, :focus-within")) hide();
  }, { passive: true });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });

  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) links.get(entry.target.id)?.classList.toggle("here", entry.isIntersecting);
  }, { rootMargin: "-20% 0px -70% 0px" });
  for (const id of links.keys()) { const part = document.getElementById(id); if (part) watch.observe(part); }
})();
