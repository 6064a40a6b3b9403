// Light, dark or as the system says: set before the first paint, so that nothing flashes. A classic script in the head of both
// pages; `gatewayTheme` is its whole interface.
(() => {
  const KEY = "gateway.theme";
  const NAMES = ["system", "light", "dark"];
  const root = document.documentElement;

  function stored() {
    try {
      const found = localStorage.getItem(KEY);
      return NAMES.includes(found) ? found : "system";
    } catch {
      return "system"; // storage is forbidden: follow the system
    }
  }

  function apply(name) {
    if (name === "system") delete root.dataset.theme;
    else root.dataset.theme = name;
    document.dispatchEvent(new Event("themechange"));
  }

  window.gatewayTheme = {
    get: stored,
    set(name) {
      try {
        localStorage.setItem(KEY, name);
      } catch {
        // It lasts until the page is left.
      }
      apply(name);
    },
    next: (name) => NAMES[(NAMES.indexOf(name) + 1) % NAMES.length],
  };
  apply(stored());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => apply(stored()));
})();
