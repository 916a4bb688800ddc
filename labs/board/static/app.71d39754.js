// Two small comforts; the board works without them.

// "2 hours ago" instead of a date, in the language of the browser.
const steps = [
  [60, "second"],
  [60, "minute"],
  [24, "hour"],
  [30, "day"],
  [12, "month"],
  [Infinity, "year"],
];
const words = new Intl.RelativeTimeFormat(document.documentElement.lang, { numeric: "auto" });

for (const time of document.querySelectorAll("time")) {
  let amount = (new Date(time.dateTime) - Date.now()) / 1000;
  if (Number.isNaN(amount)) continue;
  for (const [size, unit] of steps) {
    if (Math.abs(amount) < size) {
      time.title = time.textContent;
      time.textContent = words.format(Math.round(amount), unit);
      break;
    }
    amount /= size;
  }
}

// What is left of the room for a text, once it is nearly full.
for (const area of document.querySelectorAll("textarea[maxlength]")) {
  const left = document.createElement("small");
  left.setAttribute("aria-live", "polite");
  area.after(left);
  area.addEventListener("input", () => {
    const room = area.maxLength - area.value.length;
    left.textContent = room < 200 ? `${room} characters left` : "";
  });
}
