// What is looked at in a page of the book: its width, its colours, its formulas, and what the search finds.
const look = (frame) => {
  const view = frame.contentWindow;
  const page = frame.contentDocument;
  const texts = [...page.querySelectorAll("body *")].filter((e) => hasText(e) && e.tagName !== "SCRIPT" && !e.closest("math"));
  const faintest = texts.reduce((a, b) => (contrast(view, a) <= contrast(view, b) ? a : b));
  const input = page.querySelector("#words");
  const found = [];
  if (input) {
    page.addEventListener("click", (event) => {
      found.push(`opened ${event.target.getAttribute("href")}`);
      event.preventDefault();
    });
    for (const words of ["q_sample", "DDIM eq. (12)", "no such thing"]) {
      input.value = words;
      input.dispatchEvent(new view.Event("input"));
      if (words.startsWith("DDIM")) input.dispatchEvent(new view.KeyboardEvent("keydown", { key: "Enter" }));
      const link = page.querySelector("#found a");
      found.push(link ? link.getAttribute("href") : page.querySelector("#found").textContent);
    }
  }
  const rows = [...page.querySelectorAll(".row:not(.bare)")].filter((row) => row.querySelector(".code pre"));
  return {
    width: view.innerWidth,
    overflow: page.documentElement.scrollWidth - page.documentElement.clientWidth,
    dark: luminance(behind(view, page.body)) < 0.1,
    formulas: [...page.querySelectorAll("math")].map((math) => math.getBoundingClientRect().height),
    beside: [rows.length, rows.filter((row) => {
      const [prose, code] = [".prose", ".code"].map((part) => row.querySelector(part).getBoundingClientRect());
      return prose.top === code.top && prose.right <= code.left;
    }).length],
    cut: [...page.querySelectorAll(".code pre, .equation")].filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.textContent),
    contrast: contrast(view, faintest),
    faintest: `${faintest.tagName} ${faintest.textContent.slice(0, 40)}`,
    found,
  };
};
