/** Lets a page draw and answer before work goes on. (Not by a timer: those of a hidden tab come once a second.) */
export function turn(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => (port1.close(), resolve());
    port2.postMessage(null);
  });
}
