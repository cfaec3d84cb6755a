// SPDX-License-Identifier: Apache-2.0
// What each TypeScript client does: see conversation.py.
import { createInterface } from "node:readline";

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

const code = `
import csv, primes31
numbers = [int(row["n"]) for row in csv.DictReader(open("in/a.csv"))]
open("out.txt", "w").write(str([n for n in numbers if primes31.is_prime(n)]))
print(len(numbers))
`;

export async function converse(client, isHttp) {
  const call = async (name, args = {}) => {
    const result = await client.callTool({ name, arguments: args });
    if (result.isError) throw new Error(JSON.stringify(result.content));
    return result.structuredContent;
  };
  const made = await call("create_environment", { runtime: "python", name: "from a client" });
  const id = { environment_id: made.environment_id };
  const listed = await call("list_environments");
  if (isHttp) {
    console.log("restart the server");
    await lines.next();
  }
  const got = await call("get_environment", id);
  const packages = ["primes31"];
  const installed = await call("install_packages", { ...id, packages });
  const content = "n\n6\n7\n";
  const written = await call("write_file", { ...id, path: "in/a.csv", content });
  const executed = await call("execute", { ...id, code });
  if (executed.exit_code) throw new Error(JSON.stringify([installed, executed]));
  const read = await call("read_file", { ...id, path: "out.txt" });
  const files = await call("list_files", id);
  const lived = await call("environment_history", id);
  const destroyed = await call("destroy_environment", id);
  const ended = await call("environment_history", id);
  const worked = { installed, written, executed, read, files };
  console.log(JSON.stringify({ made, listed, got, ...worked, lived, destroyed, ended }));
}
