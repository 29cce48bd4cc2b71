"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  for (const controls of document.querySelectorAll(".controls")) controls.hidden = false;

  const sets = [...document.querySelectorAll(".set")];
  const choose = () => {
    for (const set of sets) set.hidden = set.id !== `set-${byId("sample").value}`;
  };
  byId("sample").addEventListener("change", choose);
  choose();

  const film = document.querySelector(".film");
  const steps = film.dataset.steps.split(",");
  film.classList.add("live");
  const show = () => {
    const k = Number(byId("step").value);
    for (const strip of film.querySelectorAll(".strip")) {
      strip.style.transform = `translateX(${(-100 * k) / steps.length}%)`;
    }
    const said = `t = ${steps[k]} (${k + 1} of ${steps.length})`;
    byId("step-said").textContent = said;
    byId("step").setAttribute("aria-valuetext", said);
  };
  byId("step").addEventListener("input", show);
  show();

  byId("zoom").addEventListener("input", () => {
    const pixels = `${byId("zoom").value}px`;
    document.documentElement.style.setProperty("--zoom", pixels);
    byId("zoom").setAttribute("aria-valuetext", pixels.replace("px", " pixels"));
  });
})();
