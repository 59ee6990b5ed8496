for (const figure of document.querySelectorAll("figure.slider")) {
  const stops = figure.dataset.stops.split(" ").map(Number);
  const range = figure.querySelector("input");
  const show = () => {
    const update = stops[range.value];
    figure.querySelector("output").textContent = update;
    for (const lane of figure.querySelectorAll(".lane")) {
      const pictures = [...lane.querySelectorAll("img")];
      const past = pictures.filter((picture) => Number(picture.dataset.update) <= update);
      const shown = past.length ? past[past.length - 1] : pictures[0];
      for (const picture of pictures) picture.hidden = picture !== shown;
    }
  };
  range.hidden = false;
  range.addEventListener("input", show);
  show();
}
