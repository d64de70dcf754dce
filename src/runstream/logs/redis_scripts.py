"""The Lua scripts of the Redis log: each is one atomic step in one stream, or in the index of runs.

A script decides only whether a call can go ahead; if not it answers with what is stored, and the same
functions as in every other log (`admission`) make the error of it. All are in this one file, because they
share what the keys hold and, of a stream, their first lines.

Keys of a stream (all in one hash slot; docs/redis.md lists them):
  H  a hash: generation g, first seq f, last seq l, server b that wrote last, server x at which it was
     rebuilt, k children so far; per run r: what it is, s: status and end, e: lease; per producer p:
  L  the records, one entry for each chunk, whose id is the seq of its last record
  O  the children that have not ended, in their order
  P  of a child: where its root is
"""

from __future__ import annotations

import hashlib
from typing import Final

# Records in one entry, and its size: few enough to find a position at once, enough to make the cost of
# an entry vanish. A larger batch becomes several entries of the same append.
CHUNK_RECORDS_MAX: Final = 256
CHUNK_SIZE_BYTES_MAX: Final = 256 * 1024

# The answer to an append without a producer is kept this long, for its repetition: many times longer than
# a call may take.
ONCE_S: Final = 60

# A call that a hanging server finds in its buffers after its caller has given up must do nothing: it
# carries a time, in the server's own clock, after which it is void ("late").
#
# A server that may have forgotten what it acknowledged (it does not sync each write, or another one took
# its place) is not trusted: when it is another one than wrote last, the stream gets a new generation, so
# that readers hear of it, and producers may go on from where they were.
_BEGIN: Final = """
local H, L, O, P = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local BOOT, TRUSTED, DEADLINE, GEN = ARGV[1], ARGV[2] == '1', ARGV[3], ARGV[4]
local RUN, ROOT, NOW, CHANNEL = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local time = redis.call('TIME')
if tonumber(time[1]) * 1000000 + tonumber(time[2]) > tonumber(DEADLINE) then return {'late'} end
local got = redis.call('HMGET', H, 'g', 'f', 'l', 'b', 'x', 's:' .. ROOT, 'e:' .. ROOT,
                       'r:' .. RUN, 's:' .. RUN, 'e:' .. RUN)
local gen, first, last, boot, rebuilt = got[1], tonumber(got[2]), tonumber(got[3]), got[4], got[5]
local what, status, lease = got[8], got[9], got[10]
local root_status = got[6] or ''

local function text(number) return string.format('%.0f', number) end

local function missing()
  if not gen then
    local at = redis.call('GET', P)
    if at then return {'at', at} end
  end
  return {'none'}
end

local function over(of) return string.match(of, ' (%d+)$') end

local function follow_server()
  if boot == BOOT then return end
  if not TRUSTED and last > 0 and not over(root_status) then
    gen, rebuilt = GEN, BOOT
    redis.call('HSET', H, 'g', gen, 'x', rebuilt, 'b', BOOT)
  else
    redis.call('HSET', H, 'b', BOOT)
  end
end

local function producer_of(id)
  local found = redis.call('HGET', H, 'p:' .. id)
  if not found then return {0, 0, 0, 0, 0, '', ''} end
  local a, b, c, d, e, f, g = string.match(found, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%S*) (%S*)$')
  return {tonumber(a), tonumber(b), tonumber(c), tonumber(d), tonumber(e), f, g}
end

local function set_producer(id, epoch, number, batch, from, to, token)
  redis.call('HSET', H, 'p:' .. id, table.concat({text(epoch), text(number), text(batch),
             text(from), text(to), BOOT, token}, ' '))
end

local function lease_parts(of)
  local owner, epoch, counter, times = string.match(of, '^(.-)\\n(%d+)\\n(%d+)\\n(.*)$')
  return owner, tonumber(epoch), tonumber(counter), times
end

local function make_lease(owner, epoch, counter, times)
  return table.concat({owner, text(epoch), text(counter), times}, '\\n')
end

local function store(seq, data) redis.call('XADD', L, text(seq) .. '-0', 'd', data) end

local ended = {}
local function set_status(run, word, ends)
  local set = word .. ' ' .. (ends and NOW or '')
  redis.call('HSET', H, 's:' .. run, set)
  if run == ROOT then root_status = set end
  if ends then
    if run ~= ROOT then redis.call('ZREM', O, run) end
    ended[#ended + 1] = run
    ended[#ended + 1] = word
    ended[#ended + 1] = redis.call('HGET', H, 'r:' .. run)
    ended[#ended + 1] = NOW
  end
end

-- The ends of the children that run, but for those that end in the same append; the newest first.
local function lose_children(seq, head, tail, ending)
  local lost = {}
  for _, child in ipairs(redis.call('ZREVRANGE', O, 0, -1)) do
    if not ending[child] then lost[#lost + 1] = child end
  end
  for from = 1, #lost, CHUNK_RECORDS_MAX do
    local drafts = {}
    for place = from, math.min(from + CHUNK_RECORDS_MAX - 1, #lost) do
      drafts[#drafts + 1] = head .. lost[place] .. tail
      set_status(lost[place], 'lost', true)
    end
    seq = seq + #drafts
    store(seq, table.concat(drafts, ','))
  end
  return seq
end

local function tell(seq)
  redis.call('PUBLISH', CHANNEL, gen .. ' ' .. text(seq) .. ' ' .. (over(root_status) and 'e' or ''))
end

-- The answer, and who ended: there may be more of them than `unpack` can take.
local function with_ended(answer)
  for _, part in ipairs(ended) do answer[#answer + 1] = part end
  return answer
end
""".replace("CHUNK_RECORDS_MAX", str(CHUNK_RECORDS_MAX))

_SEEN: Final = """
if not gen or not what then return missing() end
if not TRUSTED then follow_server() end
"""

_FOUND: Final = """
if not gen or not what then return missing() end
follow_server()
"""

# ARGV: 9 producer, 10 workflow ('': do not create), 11 parent, 12 lease and grace ('': no claim),
# 13 token of this call, 14 channel of the run itself.
_OPEN: Final = """
local WHO, WORKFLOW, PARENT, CLAIM, TOKEN = ARGV[9], ARGV[10], ARGV[11], ARGV[12], ARGV[13]
local created = 0
if not gen or not what then
  local where = missing()
  if where[1] == 'at' or WORKFLOW == '' or (RUN ~= ROOT and not gen) then return where end
  if RUN == ROOT then
    gen, first, last = GEN, 1, 0
    -- (A full server refuses only the first command that changes something: it must be one that adds.)
    redis.call('HSET', H, 'g', gen, 'f', '1', 'l', '0', 'b', BOOT)
    redis.call('UNLINK', L, O)
  else
    local parent = redis.call('HGET', H, 's:' .. PARENT)
    if not parent then return {'no parent'} end
    if over(parent) then return {'parent ended', string.match(parent, '^%S+')} end
    follow_server()
    redis.call('ZADD', O, redis.call('HINCRBY', H, 'k', 1), RUN)
  end
  created, what, status, lease = 1, table.concat({PARENT, WORKFLOW, NOW, TOKEN}, '\\n'), 'running ', false
  redis.call('HSET', H, 'r:' .. RUN, what, 's:' .. RUN, status)
  if RUN == ROOT then root_status = status end
else
  follow_server()
  -- The same call again, after a lost reply.
  if string.match(what, '[^\\n]*$') == TOKEN then created = 1 end
end
if over(status) then return {'ended', string.match(status, '^%S+')} end
local owner, _, counter = nil, nil, 0
if lease then owner, _, counter = lease_parts(lease) end
if CLAIM ~= '' and lease and status == 'running ' and owner ~= WHO then return {'held', owner} end
local epoch, number = 0, 0
if WHO ~= '' then
  local before = producer_of(WHO)
  epoch, number = before[1] + (before[7] == TOKEN and 0 or 1), before[2]
  set_producer(WHO, epoch, number, before[3], before[4], before[5], TOKEN)
end
if CLAIM ~= '' then
  lease, status = make_lease(WHO, epoch, counter + 1, CLAIM), 'running '
  redis.call('HSET', H, 'e:' .. RUN, lease, 's:' .. RUN, status)
end
if RUN ~= ROOT then redis.call('PUBLISH', ARGV[14], 'o') end
tell(last)
return {'ok', text(epoch), text(number), created, gen, text(first), text(last), what, status,
        lease or ''}
"""

# ARGV: 9 producer, 10 epoch, 11 number, 12 count, 13 final, 14 and 15 what stands before and behind the
# run id in the end of a lost child, 16 whether the batch contradicts itself, 17 how many children write,
# 18 how many statuses change; then the children, the changes (run, status, whether it ends), the chunks
# (count, drafts). KEYS[5]: the answer to this very call, of one without a producer.
_APPEND: Final = """
local WHO, EPOCH, NUMBER, COUNT = ARGV[9], tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
local FINAL, CHILDREN, CHANGES = ARGV[13] == '1', tonumber(ARGV[17]), tonumber(ARGV[18])
local producer
if WHO == '' then
  local answer = redis.call('GET', KEYS[5])
  if answer then
    local from, to = string.match(answer, '^(%d+) (%d+)$')
    return {'ok', from, to, gen}
  end
else
  producer = producer_of(WHO)
  if EPOCH ~= producer[1] or NUMBER ~= producer[2] + 1 then
    local forgotten = rebuilt == BOOT and producer[6] ~= BOOT
                      and EPOCH >= producer[1] and NUMBER > producer[2]
    if not forgotten then
      return {'state', text(producer[1]), text(producer[2]), text(producer[3]), text(producer[4]),
              text(producer[5])}
    end
  end
end
if over(root_status) then return {'ended', string.match(root_status, '^%S+')} end
local at = 19
local refused = ARGV[16] == '1'
local statuses = {'children'}
for place = 1, CHILDREN do
  local now = redis.call('HGET', H, 's:' .. ARGV[at])
  statuses[place + 1] = now and string.match(now, '^%S+') or ''
  refused = refused or not now or over(now)
  at = at + 1
end
if refused then return statuses end
local changes, ending = at, {}
for _ = 1, CHANGES do
  if ARGV[at + 2] == '1' then ending[ARGV[at]] = true end
  at = at + 3
end
local seq = last
while at <= #ARGV do
  if FINAL and at == #ARGV - 1 then seq = lose_children(seq, ARGV[14], ARGV[15], ending) end
  seq = seq + tonumber(ARGV[at])
  store(seq, ARGV[at + 1])
  at = at + 2
end
for place = changes, changes + 3 * CHANGES - 1, 3 do
  set_status(ARGV[place], ARGV[place + 1], ARGV[place + 2] == '1')
end
redis.call('HSET', H, 'l', text(seq))
if producer then
  set_producer(WHO, EPOCH, NUMBER + COUNT - 1, NUMBER, last + 1, seq, producer[7])
  if got[7] then
    -- Writing is a sign of life, as good as a renewal.
    local owner, epoch, counter, times = lease_parts(got[7])
    if owner == WHO then redis.call('HSET', H, 'e:' .. ROOT, make_lease(owner, epoch, counter + 1, times)) end
  end
else
  redis.call('SET', KEYS[5], text(last + 1) .. ' ' .. text(seq), 'EX', ONCE_S)
end
tell(seq)
return with_ended({'ok', text(last + 1), text(seq), gen})
""".replace("ONCE_S", str(ONCE_S))

# ARGV: 9 the lease that was seen to lapse, 10 the record of a stall ('': without grace), 11 that of the
# loss, 12 and 13 as 14 and 15 of an append.
_EXPIRE: Final = """
if lease == ARGV[9] and not over(status) and status ~= 'waiting ' then
  local owner, _, counter, times = lease_parts(lease)
  local fenced = producer_of(owner)
  local epoch = fenced[1] + 1
  set_producer(owner, epoch, fenced[2], fenced[3], fenced[4], fenced[5], '')
  local seq = last
  if status == 'running ' and ARGV[10] ~= '' then
    lease = make_lease(owner, epoch, counter + 1, times)
    redis.call('HSET', H, 'e:' .. RUN, lease)
    seq = seq + 1
    store(seq, ARGV[10])
    set_status(RUN, 'stalled', false)
  else
    if RUN == ROOT then seq = lose_children(seq, ARGV[12], ARGV[13], {}) end
    seq = seq + 1
    store(seq, ARGV[11])
    set_status(RUN, 'lost', true)
  end
  last = seq
  redis.call('HSET', H, 'l', text(last))
  tell(last)
  status = redis.call('HGET', H, 's:' .. RUN)
end
return with_ended({'ok', gen, text(first), text(last), what, status, lease or ''})
"""

# ARGV: 9 owner, 10 epoch, 11 'renew' or 'release'.
_LEASE: Final = """
local owner, epoch, counter, times
if lease then owner, epoch, counter, times = lease_parts(lease) end
if owner ~= ARGV[9] or epoch ~= tonumber(ARGV[10]) then return {lease and 'lost' or 'free'} end
if ARGV[11] == 'renew' then
  redis.call('HSET', H, 'e:' .. RUN, make_lease(owner, epoch, counter + 1, times))
else
  redis.call('HDEL', H, 'e:' .. RUN)
end
return {'ok'}
"""

# ARGV: 9 the last seq to drop. Whole entries go; f hides the rest of the one that the limit falls into.
_TRIM: Final = """
local through = math.min(tonumber(ARGV[9]), last)
if through >= first then
  redis.call('XTRIM', L, 'MINID', text(through + 1) .. '-0')
  redis.call('HSET', H, 'f', text(through + 1))
end
return {'ok'}
"""

# ARGV: 9 after, 10 records, 11 bytes. Entries are fetched a few at a time until either is reached.
_READ: Final = """
local after, limit, bytes_max = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local parts, bytes, reached, step, full = {}, 0, after, 8, false
while not full do
  local entries = redis.call('XRANGE', L, text(reached + 1) .. '-0', '+', 'COUNT', step)
  for _, entry in ipairs(entries) do
    local seq = tonumber(string.match(entry[1], '^%d+'))
    -- A page ends with an entry, so that nothing is decoded twice; but the first one is always in it.
    full = full or (#parts > 0 and seq - after > limit)
    if full then break end
    parts[#parts + 1] = entry[2][2]
    bytes = bytes + #entry[2][2]
    reached = seq
  end
  full = full or #entries < step or reached - after >= limit or bytes >= bytes_max
  if not full then
    step = math.min((limit - (reached - after)) * #parts / (reached - after),
                    (bytes_max - bytes) * #parts / bytes)
    step = math.max(1, math.min(512, math.ceil(step)))
  end
end
return {'ok', gen, text(first), text(last), what, status, lease or '', root_status,
        text(reached), table.concat(parts, ',')}
"""

# ARGV: 9 the time at which the root ended.
_REMOVE: Final = """
if over(root_status) ~= ARGV[9] then return {'kept'} end
redis.call('UNLINK', H, L, O)
redis.call('PUBLISH', CHANNEL, 'x')
return {'ok'}
"""

# KEYS: H and P of a child; ARGV: where its root is. Whoever points first has opened it.
_POINT: Final = """
if redis.call('EXISTS', KEYS[1]) == 1 then return {'root'} end
redis.call('SET', KEYS[2], ARGV[1], 'NX')
return {'at', redis.call('GET', KEYS[2])}
"""

# KEYS: P of a child; ARGV: where its root was.
_UNPOINT: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('UNLINK', KEYS[1]) end
return {'ok'}
"""

# KEYS: the lists that a new run goes into, that of all runs first; ARGV: the run. Its score is the time,
# and above every other one's: it orders the lists.
_REGISTER: Final = """
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then return {'ok'} end
local time = redis.call('TIME')
local score = tonumber(time[1]) * 1000000 + tonumber(time[2])
local newest = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if newest[2] then score = math.max(score, tonumber(newest[2]) + 1) end
for _, list in ipairs(KEYS) do redis.call('ZADD', list, string.format('%.0f', score), ARGV[1]) end
return {'ok'}
"""

# KEYS: all runs, the list of ends (for retention), the two lists of its status, the two of active ones;
# ARGV: the run, when it ended, whether it is a root.
_FINISH: Final = """
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if score then
  redis.call('ZADD', KEYS[3], score, ARGV[1])
  redis.call('ZADD', KEYS[4], score, ARGV[1])
end
if ARGV[3] == '1' then redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1]) end
redis.call('ZREM', KEYS[5], ARGV[1])
redis.call('ZREM', KEYS[6], ARGV[1])
return {'ok'}
"""

# KEYS: the list of ends; ARGV: the run, when it ended.
_FORGET: Final = """
if redis.call('ZSCORE', KEYS[1], ARGV[1]) == ARGV[2] then redis.call('ZREM', KEYS[1], ARGV[1]) end
return {'ok'}
"""


class Script:
    """One script; `sha` is how a server that has it calls it."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


OPEN: Final = Script(_BEGIN + _OPEN)
APPEND: Final = Script(_BEGIN + _FOUND + _APPEND)
EXPIRE: Final = Script(_BEGIN + _FOUND + _EXPIRE)
LEASE: Final = Script(_BEGIN + _FOUND + _LEASE)
TRIM: Final = Script(_BEGIN + _FOUND + _TRIM)
READ: Final = Script(_BEGIN + _SEEN + _READ)
REMOVE: Final = Script(_BEGIN + _SEEN + _REMOVE)
POINT: Final = Script(_POINT)
UNPOINT: Final = Script(_UNPOINT)
REGISTER: Final = Script(_REGISTER)
FINISH: Final = Script(_FINISH)
FORGET: Final = Script(_FORGET)

SCRIPTS: Final = (
    OPEN, APPEND, EXPIRE, LEASE, TRIM, READ, REMOVE, POINT, UNPOINT, REGISTER, FINISH, FORGET,
)  # fmt: skip
