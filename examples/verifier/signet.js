// Verifies Signet's access tokens in nginx, with njs. docs/verify.md has the
// configuration that belongs to it.
const spki = Buffer.from('3059301306072a8648ce3d020106082a8648ce3d03010703420004', 'hex'); // before x and y of a P-256 key

function part(token, i) {
    return JSON.parse(Buffer.from(token.split('.')[i], 'base64url').toString());
}

// claims returns the claims of a token of that type, or throws.
async function claims(jwks, token, typ) {
    const header = part(token, 0), parts = token.split('.');
    if (parts.length !== 3 || header.alg !== 'ES256' || header.typ !== typ || header.crit) throw new Error('another kind of token');
    const jwk = jwks.keys.filter(k => k.kid === header.kid && k.kty === 'EC' && k.crv === 'P-256')[0];
    if (!jwk) throw new Error('unknown key');
    const key = await crypto.subtle.importKey('spki', Buffer.concat([spki, Buffer.from(jwk.x, 'base64url'), Buffer.from(jwk.y, 'base64url')]),
        { name: 'ECDSA', namedCurve: 'P-256' }, false, ['verify']);
    const signed = Buffer.from(parts[0] + '.' + parts[1]);
    if (!await crypto.subtle.verify({ name: 'ECDSA', hash: 'SHA-256' }, key, Buffer.from(parts[2], 'base64url'), signed)) throw new Error('signature');
    return part(token, 1);
}

async function ask(r, path) {
    const answer = await r.subrequest(path);
    return answer.status === 200 ? answer.responseText : null;
}

async function guard(r) {
    const keys = await ask(r, '/_signet/keys'), list = await ask(r, '/_signet/revoked');
    if (keys === null || list === null) { // no 401: clients discard their tokens on it
        r.headersOut['Retry-After'] = '5';
        r.return(503);
        return;
    }
    const token = (r.headersIn.Authorization || '').replace(/^Bearer /i, ''), now = Date.now() / 1000, jwks = JSON.parse(keys);
    let c;
    try {
        const feed = await claims(jwks, list, 'revoked+jwt');
        c = await claims(jwks, token, 'at+jwt');
        if (feed.iss !== r.variables.signet_issuer || c.iss !== feed.iss || c.aud !== r.variables.signet_audience) throw new Error('another issuer or audience');
        if (!(c.exp > now - 60) || !(c.iat < now + 60) || c.iat < feed.not_before || !c.gid || feed.revoked[c.gid]) throw new Error('expired or revoked');
    } catch (e) {
        r.headersOut['WWW-Authenticate'] = token ? 'Bearer error="invalid_token"' : 'Bearer';
        r.return(401);
        return;
    }
    r.variables.signet_sub = c.sub;
    r.variables.signet_scope = c.scope;
    r.internalRedirect('@signet_verified');
}

export default { guard };
