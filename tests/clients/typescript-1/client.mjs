// SPDX-License-Identifier: Apache-2.0
// The TypeScript SDK 1.x: node client.mjs URL, or node client.mjs COMMAND ARGUMENT...
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { converse } from "./conversation.mjs";

const [place, ...args] = process.argv.slice(2);
const isHttp = place.startsWith("http://");
const client = new Client({ name: "typescript-1", version: "1" });
await client.connect(
  isHttp
    ? new StreamableHTTPClientTransport(new URL(place))
    : new StdioClientTransport({ command: place, args, env: process.env, stderr: "ignore" }),
);
await converse(client, isHttp);
await client.close();
process.exit(0);
