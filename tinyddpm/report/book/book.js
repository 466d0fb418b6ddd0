"use strict";
const entries = JSON.parse(document.querySelector("#entries").textContent);
const input = document.querySelector("#words");
const list = document.querySelector("#found");
const MOST = 30, SPACE = /[\s.()]+/;

// How well an entry answers to words: its name counts more than what is said of it; 0 where a word is missing.
const score = ([name, , about], words) => {
  const title = name.toLowerCase(), text = about.toLowerCase();
  let sum = 0;
  for (const word of words) {
    if (title === word) sum += 25;
    else if (title.split(SPACE).includes(word)) sum += 20;
    else if (title.includes(word)) sum += 10;
    else if (text.includes(word)) sum += 1;
    else return 0;
  }
  return sum - title.length / 1000;
};

const show = () => {
  const words = input.value.toLowerCase().split(SPACE).filter(Boolean);
  const ranked = words.length ? entries.map((entry) => [score(entry, words), entry]).filter(([points]) => points > 0) : [];
  ranked.sort(([one], [other]) => other - one);
  list.replaceChildren(...ranked.slice(0, MOST).map(([, [name, address, about]]) => {
    const item = document.createElement("li"), link = document.createElement("a");
    link.href = address;
    link.textContent = name;
    item.append(link, ` ${about}`);
    return item;
  }));
  if (words.length && !ranked.length) list.append(Object.assign(document.createElement("li"), { textContent: "Nothing has these words." }));
};

input.disabled = false;
input.addEventListener("input", show);
input.addEventListener("keydown", ({ key }) => {
  if (key === "Enter") list.querySelector("a")?.click();
});
