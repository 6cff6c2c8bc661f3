// Imported by a waiting cell: what most functions import, directly or not.

import 'node:assert';
import 'node:async_hooks';
import 'node:buffer';
import 'node:child_process';
import 'node:crypto';
import 'node:dns';
import 'node:events';
import 'node:fs/promises';
import 'node:https';
import 'node:module';
import 'node:net';
import 'node:os';
import 'node:querystring';
import 'node:stream/promises';
import 'node:string_decoder';
import 'node:timers/promises';
import 'node:tls';
import 'node:url';
import 'node:util';
import 'node:zlib';
import { createRequire } from 'node:module';

// The first require and the first fetch set up their machinery.
createRequire(import.meta.url)('node:path');
fetch('data:,').then((response) => response.text());
