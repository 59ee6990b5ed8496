#!/bin/sh
# Writes the Redis users of one run, or of all runs of a pattern, into a new folder, with a password of its own for each:
#   users.acl    for the server: rights, and digests of the passwords
#   url-ROLE     for the run: the server's URL with that role's user and password
# usage: deploy/redis/secret.sh RUN HOST:PORT FOLDER      RUN: a run's name, or a pattern such as team-a-*
set -eu
run=$1 address=$2 folder=$3
here=$(dirname "$0")
umask 077
mkdir "$folder"
cp "$here/users.acl" "$folder/users.acl"
for role in driver learner rollout reward exporter; do
  password=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
  digest=$(printf %s "$password" | sha256sum | cut -d' ' -f1)
  sed -i "s/^\(user tafs-$role on #\)PASSWORD /\1$digest /" "$folder/users.acl"
  printf 'redis://tafs-%s:%s@%s/0' "$role" "$password" "$address" >"$folder/url-$role"
done
sed -i "s/~RUN:/~{$run}:/g" "$folder/users.acl"
