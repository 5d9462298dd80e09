// Write a comment on a patient, and walk to the next one in the order of the list.

const form = document.getElementById("review");
const saved = document.getElementById("saved");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const { id, verdict, note } = form.elements;
  const content = JSON.stringify({ id: id.value, verdict: verdict.value, note: note.value });
  const headers = { "Content-Type": "application/json" };
  const answer = await fetch(form.dataset.reviews, { method: "POST", headers, body: content }).catch(() => null);
  saved.className = answer?.ok ? "good" : "bad";
  if (answer?.ok) saved.textContent = "Saved.";
  else saved.textContent = answer ? await problem(answer) : "Not saved: the UI does not answer.";
});
form.addEventListener("input", () => (saved.textContent = "Not saved yet."));

async function problem(answer) {
  const text = new DOMParser().parseFromString(await answer.text(), "text/html");
  return `Not saved: ${text.querySelector("main p")?.textContent ?? answer.statusText}`;
}

const order = JSON.parse(sessionStorage.getItem(`order ${form.dataset.list}`) ?? "[]");
const place = order.indexOf(form.elements.id.value);
for (const [name, step] of [["previous", -1], ["next", 1]]) {
  const link = document.getElementById(name);
  if (place < 0 || !link) continue;
  const other = order[place + step];
  link.hidden = other === undefined;
  if (other !== undefined) {
    link.href = `${form.dataset.list}/${encodeURIComponent(other)}`;
    link.querySelector("span").textContent = other;
  }
}
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  const link = { j: "next", k: "previous" }[event.key];
  if (link && !document.getElementById(link).hidden) document.getElementById(link).click();
  else if (event.key === "n") {
    event.preventDefault();
    form.elements.note.focus();
  }
});
