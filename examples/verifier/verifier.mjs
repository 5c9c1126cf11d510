// An API that accepts Signet's access tokens, with the npm package jose. It is the
// same program as main.go, in JavaScript.
import { createServer } from 'node:http';
import { createRemoteJWKSet, errors, jwtVerify } from 'jose';

const { SIGNET_ISSUER: issuer, RESOURCE: audience, LISTEN: listen } = process.env;

const keys = createRemoteJWKSet(new URL(issuer + '/.well-known/jwks.json'));
const revoked = new Map(); // grant id to the time (in seconds) when its last token has expired
let notBefore = 0; // no token with an earlier iat counts

async function poll() {
  const response = await fetch(issuer + '/.well-known/revoked', { redirect: 'error', signal: AbortSignal.timeout(5000) });
  const { payload: feed } = await jwtVerify(await response.text(), keys, { issuer, typ: 'revoked+jwt', algorithms: ['ES256'], clockTolerance: 60 });
  for (const [gid, at] of Object.entries(feed.revoked)) revoked.set(gid, at + feed.exp - feed.iat + 60);
  notBefore = Math.max(notBefore, feed.not_before ?? 0);
  for (const [gid, dead] of revoked) if (dead < Date.now() / 1000) revoked.delete(gid);
}

async function verify(token) {
  const { payload } = await jwtVerify(token, keys, { issuer, audience, typ: 'at+jwt', algorithms: ['ES256'], clockTolerance: 60 });
  if (revoked.has(payload.gid) || payload.iat < notBefore) throw new errors.JWTInvalid('revoked');
  return payload;
}

await poll();
setInterval(() => poll().catch(console.error), 10_000);

createServer(async (request, response) => {
  try {
    const { sub, scope } = await verify(request.headers.authorization?.replace(/^Bearer /i, '') ?? '');
    response.end(`Hello, ${sub}, with the scopes ${scope}.\n`);
  } catch (e) {
    // Without the keys the token may be valid. Do not answer 401: clients discard their tokens on it.
    const refused = e instanceof errors.JOSEError && !['ERR_JOSE_GENERIC', 'ERR_JWKS_TIMEOUT', 'ERR_JWKS_INVALID'].includes(e.code);
    response.writeHead(refused ? 401 : 503, refused ? { 'WWW-Authenticate': 'Bearer error="invalid_token"' } : {}).end();
  }
}).listen(new URL('http://' + listen).port, new URL('http://' + listen).hostname);
