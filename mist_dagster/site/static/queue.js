// Write verdicts on the patients of the review queue.

const queue = document.querySelector("[data-reviews]");

queue?.addEventListener("click", async ({ target }) => {
  if (!target.matches("button")) return;
  const row = target.closest("[data-id]"), status = row.querySelector("[role=status]");
  const verdict = target.getAttribute("aria-pressed") === "true" ? "" : target.value;
  const content = JSON.stringify({ id: row.dataset.id, verdict, note: row.dataset.note });
  const headers = { "Content-Type": "application/json" };
  const answer = await fetch(queue.dataset.reviews, { method: "POST", headers, body: content }).catch(() => null);
  status.className = answer?.ok ? "good" : "bad";
  if (!answer?.ok) {
    status.textContent = answer ? `Not saved: ${answer.statusText}` : "Not saved: the UI does not answer.";
    return;
  }
  for (const button of row.querySelectorAll("button")) button.setAttribute("aria-pressed", String(button.value === verdict));
  row.classList.toggle("settled", Boolean(verdict));
  status.textContent = verdict ? "Saved." : "Removed.";
});
