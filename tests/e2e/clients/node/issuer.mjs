// An authorization server for workloads: a client-credentials grant mints a token with the claims that it is told.
// Prints one line of JSON when it serves, and ends with its standard input. The first argument is a port, 0 for any.

import { OAuth2Server } from "oauth2-mock-server";

const server = new OAuth2Server();
await server.issuer.keys.generate("RS256");
server.service.on("beforeTokenSigning", (token, request) => {
  Object.assign(token.payload, JSON.parse(request.body.claims ?? "{}"));
});
await server.start(Number(process.argv[2] ?? 0), "127.0.0.1");
console.log(JSON.stringify({ issuer: server.issuer.url, port: server.address().port }));
process.stdin.resume().on("end", () => process.exit(0));
