# Configures packages that are unpacked: what dpkg would have done from the
# first preinst to the last postinst. Runs in a guest without an init, without a
# network, as root, on a tree nobody else uses.
set -e
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 LANGUAGE=C
export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true DEBIAN_PRIORITY=critical
umask 022
cd /

# No service may be started here: invoke-rc.d(8) asks this. deb-systemd-invoke
# does nothing where systemd isn't running.
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d

# dpkg syncs its database after every step, and this disk is thrown away: the
# database is kept in memory meanwhile.
mkdir -p /run/dpkg
mount -t tmpfs -o size=50%,mode=0755 tmpfs /run/dpkg
cp -a /var/lib/dpkg/. /run/dpkg/
mount --bind /run/dpkg /var/lib/dpkg

# The scripts that run before a package is unpacked, first those all others
# rely on.
before() {
	name=${1##*/} name=${name%.preinst} package=${name%:*}
	DPKG_MAINTSCRIPT_NAME=preinst DPKG_MAINTSCRIPT_PACKAGE=$package DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=1 \
	DPKG_MAINTSCRIPT_ARCH=amd64 DPKG_RUNNING_VERSION=$version DPKG_ADMINDIR=/var/lib/dpkg DPKG_ROOT= DPKG_FORCE= \
		"$1" install || { echo "preinst of $package failed" >&2; exit 1; }
}
version=$(dpkg-query --show --showformat='${Version}' dpkg)
first="base-passwd base-files"
for p in $first; do
	if [ -e "/var/lib/dpkg/info/$p.preinst" ]; then before "/var/lib/dpkg/info/$p.preinst"; fi
done
for script in /var/lib/dpkg/info/*.preinst; do
	case $script in */base-passwd.preinst | */base-files.preinst | *'*'*) continue ;; esac
	before "$script"
done

options="--force-unsafe-io --force-confold"
# Essential packages need each other before any is configured: this order works
# for every bootstrapper.
for p in base-passwd base-files dpkg libc6 perl-base mawk debconf; do
	if [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$p" 2>/dev/null)" = unpacked ]; then
		dpkg $options --force-depends --configure "$p"
	fi
done
dpkg $options --configure -a
wrong=$(dpkg --audit)
if [ -n "$wrong" ]; then
	echo "$wrong" >&2
	exit 1
fi

umount /var/lib/dpkg
rm -rf /var/lib/dpkg/*
cp -a /run/dpkg/. /var/lib/dpkg/
umount /run/dpkg
rm -f /usr/sbin/policy-rc.d
