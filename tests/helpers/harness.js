// What frames with pages show, each as `look` tells it, written into this page as JSON for the test to read.
"use strict";

const rgb = (colour) => colour.match(/[\d.]+/g).map(Number);

const luminance = (colour) => {
  const [r, g, b] = rgb(colour).map((part) => {
    const share = part / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};

const behind = (view, element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = view.getComputedStyle(at).backgroundColor;
    if ((rgb(colour)[3] ?? 1) === 1) return colour;
  }
  return "rgb(255, 255, 255)";
};

// The contrast of a text with what it stands on, by WCAG 2.2's definition.
const contrast = (view, element) => {
  const style = view.getComputedStyle(element);
  const ink = luminance(element.tagName === "text" ? style.fill : style.color);
  const paper = luminance(behind(view, element));
  return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
};

const hasText = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());

addEventListener("load", () => {
  const frames = [...document.querySelectorAll("iframe")];
  document.querySelector("pre").textContent = JSON.stringify(frames.map(look));
});
