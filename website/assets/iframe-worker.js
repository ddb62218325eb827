// Browsers start no worker on pages that were opened from a disk. There the site's search runs in a hidden frame instead,
// so that it works without a server and without network. The site builder looks for a script of this name.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.onmessage = this.onerror = this.onmessageerror = null;
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.appendChild(this.frame);
      const inside = this.frame.contentWindow;
      inside.postMessage = (data) => setTimeout(() => this.tell("message", new MessageEvent("message", { data })));
      const script = inside.document.createElement("script");
      script.onload = () => {
        this.waiting.forEach((data) => this.hand(data));
        this.waiting = null;
      };
      script.onerror = () => this.tell("error", new ErrorEvent("error", { message: `cannot load ${url}` }));
      script.src = new URL(url, location);
      inside.document.body.appendChild(script);
    }

    postMessage(data) {
      if (this.waiting) this.waiting.push(data);
      else this.hand(data);
    }

    hand(data) {
      const inside = this.frame.contentWindow;
      if (inside) inside.dispatchEvent(new inside.MessageEvent("message", { data: structuredClone(data) }));
    }

    tell(name, event) {
      this.dispatchEvent(event);
      if (this["on" + name]) this["on" + name](event);
    }

    terminate() {
      this.frame.remove();
    }
  };
}
