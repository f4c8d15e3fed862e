// Two kinds of things move on the site, and both are whole without this script.

// A picture with a slider: the parts that a frame names take the attributes that it gives.
for (const look of document.querySelectorAll(".look")) {
  const data = JSON.parse(look.querySelector("script").textContent);
  const range = look.querySelector("input");
  const show = () => {
    const frame = data.frames[range.value];
    look.querySelector("output").textContent = frame.label;
    for (const [name, attributes] of Object.entries(frame.parts)) {
      const part = look.querySelector(`[data-part="${name}"]`);
      for (const [key, value] of Object.entries(attributes)) {
        if (key === "text") part.textContent = value;
        else part.setAttribute(key, value);
      }
    }
  };
  range.max = data.frames.length - 1;
  range.value = data.start;
  range.addEventListener("input", show);
  look.querySelector(".control").hidden = false;
  show();
}

// A table with filters: a choice per marked column, and words that a line must hold.
for (const control of document.querySelectorAll(".filters")) {
  const lines = [...document.querySelectorAll(`#${control.dataset.table} tbody tr`)];
  const fields = [...control.querySelectorAll("[data-column]")];
  const words = control.querySelector("input");
  const count = control.querySelector("output");
  for (const field of fields) {
    const values = new Set(lines.map((line) => line.cells[field.dataset.column].textContent));
    for (const value of values) field.add(new Option(value));
  }
  const filter = () => {
    const asked = words.value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const line of lines) {
      const chosen = fields.every(
        (f) => !f.value || line.cells[f.dataset.column].textContent === f.value);
      const text = line.textContent.toLowerCase();
      line.hidden = !(chosen && asked.every((word) => text.includes(word)));
      shown += !line.hidden;
    }
    count.textContent = `${shown} of ${lines.length}`;
  };
  for (const field of [...fields, words]) field.addEventListener("input", filter);
  control.hidden = false;
  filter();
}
