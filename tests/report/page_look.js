// What is looked at in a report.
const look = (frame) => {
  const view = frame.contentWindow;
  const page = frame.contentDocument;
  const texts = [...page.querySelectorAll("body *")].filter((e) => hasText(e) && e.tagName !== "SCRIPT");
  const faintest = texts.reduce((a, b) => (contrast(view, a) <= contrast(view, b) ? a : b));
  const through = page.querySelector(".through");
  const input = through.querySelector("input");
  const shown = () => [
    through.querySelector("output").textContent,
    [...through.querySelectorAll("figure")].filter((figure) => view.getComputedStyle(figure).display !== "none").length,
  ];
  const moved = [shown()];
  input.stepDown();
  input.dispatchEvent(new view.Event("input"));
  moved.push(shown());
  const rows = [...page.querySelectorAll("#summary tbody tr")].map((row) => [
    row.querySelector("th").textContent, [...row.querySelectorAll("td")].map((cell) => cell.textContent),
  ]);
  const seen = {
    width: view.innerWidth,
    overflow: page.documentElement.scrollWidth - page.documentElement.clientWidth,
    dark: view.matchMedia("(prefers-color-scheme: dark)").matches && luminance(behind(view, page.body)) < 0.1,
    title: page.title,
    pictures: [...page.images].map((image) => [image.naturalWidth, image.naturalHeight]),
    charts: [...page.querySelectorAll("svg.chart")].filter((chart) => chart.getBoundingClientRect().height > 100).length,
    row: Object.fromEntries(rows),
    through: moved,
    contrast: contrast(view, faintest),
    faintest: `${faintest.tagName} ${faintest.textContent.slice(0, 40)}`,
  };
  // A run with fewer pictures than the one beside it: where its first one stands.
  const fewer = page.querySelector("#samples article:last-child");
  fewer.querySelectorAll(".through, .moving").forEach((pictures) => pictures.remove());
  const [name, picture] = ["h3", "figure"].map((tag) => fewer.querySelector(tag).getBoundingClientRect());
  return { ...seen, below: picture.top - name.top };
};
