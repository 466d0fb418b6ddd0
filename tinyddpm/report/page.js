"use strict";
for (const through of document.querySelectorAll(".through")) {
  const input = through.querySelector("input");
  const figures = [...through.querySelectorAll("figure")];
  const show = () => {
    figures.forEach((figure, index) => { figure.hidden = index !== Number(input.value); });
    const told = figures[input.value].querySelector("figcaption").textContent;
    through.querySelector("output").textContent = told;
    input.setAttribute("aria-valuetext", told);
  };
  input.addEventListener("input", show);
  input.hidden = false;
  through.classList.add("live");
  show();
}
if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
  for (const moving of document.querySelectorAll(".moving details")) moving.open = false;
}
