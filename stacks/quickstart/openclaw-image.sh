# shellcheck shell=bash
# Sourced by image.sh: how an OpenClaw image is made of Debian packages and the npm package `openclaw`, without any
# image registry. It keeps upstream's contract: user node (1000:1000), HOME, tini as entrypoint, `openclaw` and `node`
# on PATH, state in /home/node/.openclaw (0700), the version as a label.
# The recipe's name is a hash of this file: a change here makes a new image.
node_version=26.10.0
packages=ca-certificates,curl,git,hostname,libatomic1,libgomp1,libstdc++6,lsof,openssl,procps,tini

# The machine's own release, and its own sources where they can be told: its mirror and proxy are set up already.
suite=$(. /etc/os-release 2>/dev/null && printf '%s' "${VERSION_CODENAME:-bookworm}")

sources() {
  local file
  for file in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list; do
    if [ -s "$file" ]; then printf '%s' "$file" && return; fi
  done
}

# make_rootfs TAR: Debian's part. Sources and settings of apt are left out: they may hold a proxy's password.
make_rootfs() {
  local mode=root from
  is_root || mode=unshare
  from=$(sources)
  # shellcheck disable=SC2016 # $1 is the hook's own argument
  mmdebstrap --quiet --mode="$mode" --variant=minbase --include="$packages" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --aptopt='Acquire::Languages "none"' \
    --customize-hook='chroot "$1" groupadd --gid 1000 node' \
    --customize-hook='chroot "$1" useradd --create-home --uid 1000 --gid 1000 --shell /bin/bash node' \
    --customize-hook='chroot "$1" install -d -m 0700 -o node -g node /home/node/.openclaw /home/node/.config' \
    --customize-hook='for name in node npm npx openclaw; do ln -s /opt/openclaw/node_modules/.bin/$name "$1/usr/local/bin/$name"; done' \
    --customize-hook='rm -rf "$1"/etc/apt/sources.list* "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/var/lib/apt/lists/* "$1"/var/cache/*' \
    "$suite" "$1" ${from:+"$from"}
}

# make_npm_tree DIR VERSION: DIR/opt/openclaw with node and OpenClaw, without what never loads on this system.
make_npm_tree() {
  mkdir -p "$1/opt/openclaw"
  cd "$1/opt/openclaw" || return
  printf '{"name":"openclaw-image","private":true}\n' >package.json
  local npm=(npm install --no-audit --no-fund --no-package-lock --loglevel=error --cache "$1/npm-cache")
  # Node first, and on PATH: OpenClaw's install scripts refuse an older one.
  "${npm[@]}" "node@$node_version"
  PATH=$PWD/node_modules/.bin:$PATH "${npm[@]}" --omit=dev npm@11 "openclaw@$2"
  find . -type f \( -name '*.map' -o -path '*/prebuilds/darwin*' -o -path '*/prebuilds/win32*' -o -path '*koffi*/musl_*' \) -delete
  rm -f node_modules/.package-lock.json
}

# import_image TAR REF VERSION RECIPE
import_image() {
  docker import \
    --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/home/node NODE_ENV=production' \
    --change 'ENV OPENCLAW_DISABLE_BONJOUR=1 OPENCLAW_NO_AUTO_UPDATE=1' \
    --change 'USER node' --change 'WORKDIR /home/node' --change 'EXPOSE 18789' \
    --change "LABEL org.opencontainers.image.version=$3 com.mosaic.recipe=$4" \
    --change 'HEALTHCHECK --interval=3m --timeout=10s --start-period=15s CMD curl -fsS http://127.0.0.1:18789/healthz' \
    --change 'ENTRYPOINT ["tini","-s","--"]' --change 'CMD ["openclaw","gateway"]' \
    "$1" "$2"
}
