"""TextCraft: crafting Minecraft items from text commands."""
