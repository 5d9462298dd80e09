// Fill every element with data-live from its address, and again every data-seconds while the page is visible.

for (const part of document.querySelectorAll("[data-live]")) {
  const seconds = Number(part.dataset.seconds || 10);
  let shown = "";
  const update = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(part.dataset.live);
      const text = await answer.text();
      // What is the same stays, so that an open list does not close and a screen reader does not repeat it.
      const compared = text.replace(/<time>.*?<\/time>/g, "");
      if (answer.ok && compared !== shown) {
        const open = [...part.querySelectorAll("details[open]")].map((details) => details.dataset.name);
        part.innerHTML = text;
        for (const details of part.querySelectorAll("details")) details.open ||= open.includes(details.dataset.name);
        shown = compared;
      }
    } catch {
      part.textContent = "The UI does not answer. Start mist_ui again.";
      shown = "";
    }
  };
  update();
  setInterval(update, 1000 * seconds);
  document.addEventListener("visibilitychange", update);
}
