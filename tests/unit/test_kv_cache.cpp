#include "model/kv_cache.h"
#include "tests/support/support.h"

using namespace quern;

TEST_CASE("blocks are handed out, shared and given back") {
  KvBlockAllocator allocator(3, 16);
  CHECK_EQ(allocator.allocate(), 0);
  CHECK_EQ(allocator.allocate(), 1);
  allocator.share(0);
  allocator.release(0);
  CHECK_EQ(allocator.num_free(), 1);
  allocator.release(0);
  CHECK_EQ(allocator.num_free(), 2);
  CHECK_EQ(allocator.allocate(), 0);
  CHECK_EQ(allocator.allocate(), 2);
  CHECK_FALSE(allocator.allocate().has_value());
}

TEST_CASE("sequences take the blocks that their tokens need, or none") {
  KvBlockAllocator allocator(4, 16);
  KvSequence one(allocator);
  CHECK(one.extend(16));
  CHECK_EQ(one.blocks().size(), 1);
  CHECK(one.extend(1));
  CHECK_EQ(one.blocks().size(), 2);
  {
    KvSequence two(allocator);
    CHECK(two.extend(32));
    CHECK_EQ(allocator.num_free(), 0);
    CHECK(one.extend(15));
    CHECK_FALSE(one.extend(1));
    CHECK_EQ(one.length(), 32);
    CHECK_EQ(one.blocks().size(), 2);
    one.truncate(16);
    CHECK_EQ(allocator.num_free(), 1);
    one.truncate(99);
    CHECK_EQ(one.length(), 16);
  }
  CHECK_EQ(allocator.num_free(), 3);
  one.truncate(0);
  CHECK_EQ(allocator.num_free(), 4);
  CHECK(one.extend(64));
  CHECK_FALSE(one.extend(1));
}
