// Entry point of a Node function's container.

import { waitingCell } from './cell.mjs';
import { Server } from './serve.mjs';

const cell = await waitingCell();
const server = new Server(cell);

// An error that nothing awaits belongs to some earlier request; the others go on.
process.on('uncaughtException', (error) => console.error(error));
process.on('unhandledRejection', (error) => console.error(error));

if (cell) {
  // A cell that could not rehearse is slower, not broken.
  await cell.prewarm().catch((error) => console.error('kiln: rehearsal:', error));
} else {
  try {
    await server.load();
  } catch (error) {
    console.error(error);
    console.error('kiln: the handler could not be imported');
    process.exit(1);
  }
}
server.listen();
