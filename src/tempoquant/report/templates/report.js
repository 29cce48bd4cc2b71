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

  // A phone begins smaller, so that two pictures stand side by side.
  byId("zoom").value = parseInt(getComputedStyle(document.documentElement).getPropertyValue("--zoom"), 10);
  byId("zoom").setAttribute("aria-valuetext", `${byId("zoom").value} pixels`);
  byId("zoom").addEventListener("input", () => {
    const pixels = `${byId("zoom").value}px`;
    document.documentElement.style.setProperty("--zoom", pixels);
    byId("zoom").setAttribute("aria-valuetext", pixels.replace("px", " pixels"));
  });

  // Frames are of some of the steps; figures know all of them. Both tell each other through "step" events.
  const film = document.querySelector(".film");
  const times = film.dataset.steps.split(",");
  const indices = film.dataset.indices.split(",").map(Number);
  const slider = byId("step");
  film.classList.add("live");
  const show = () => {
    const frame = Number(slider.value);
    for (const strip of film.querySelectorAll(".strip")) {
      strip.style.transform = `translateX(${(-100 * frame) / times.length}%)`;
    }
    const said = `t = ${times[frame]} (${frame + 1} of ${times.length})`;
    byId("step-said").textContent = said;
    slider.setAttribute("aria-valuetext", said);
  };
  slider.addEventListener("input", () => {
    show();
    document.dispatchEvent(new CustomEvent("step", { detail: indices[slider.value] }));
  });
  document.addEventListener("step", ({ detail: k }) => {
    const far = indices.map((index) => Math.abs(index - k));
    const nearest = far.indexOf(Math.min(...far));
    if (nearest !== Number(slider.value)) {
      slider.value = nearest;
      show();
    }
  });
  show();
})();
