import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

export default defineConfig({
  // The server may be mounted under any prefix.
  base: "./",
  plugins: [react()],
  build: {
    // It ships inside the Python package: nobody needs Node to look at a run.
    outDir: "../../src/runstream/server/console_files",
    emptyOutDir: true,
    modulePreload: { polyfill: false },
  },
  server: { proxy: { "/v1": "http://127.0.0.1:4747" } },
});
